#include "distill/batches.h"

#include <array>

#include "shallowpi/data/image.h"
#include "training_fixture.h"

namespace shallowpi {
namespace {

using testing::TrainingFixture;

// What `samples` are, to be compared.
std::vector<std::array<std::int32_t, 3>> keys(const std::vector<Dataset::Sample>& samples) {
  std::vector<std::array<std::int32_t, 3>> result;
  for (const Dataset::Sample& sample : samples)
    result.push_back({sample.source, sample.episode, sample.step});
  return result;
}

TEST(PrepareTraining, SplitsTheEpisodesByTheSeed) {
  const TrainingFixture fixture;
  const TrainingSetup setup = prepare_training(fixture.config("run", {"seed=3"}));
  const Dataset::Split split = setup.dataset->split(0.25, 3);
  ASSERT_NE(keys(split.held_out), keys(setup.dataset->split(0.25, 0).held_out)) << "any seed would do";
  EXPECT_EQ(keys(setup.split.held_out), keys(split.held_out));
  EXPECT_EQ(keys(setup.split.train), keys(split.train));
}

TEST(HeldOutBatches, HoldFramesThatAreNotTrainedOn) {
  const TrainingFixture fixture;
  const TrainingSetup setup = prepare_training(fixture.config("run"));
  std::vector<torch::Tensor> actions, images;
  for (const TrainingBatch& batch : held_out_batches(setup, 4)) {
    actions.push_back(batch.actions_bhd);
    images.push_back(batch.observation.images_bcyx[0]);
  }
  const TrainingBatch expected = setup.pipeline->make_batch(setup.split.held_out);
  EXPECT_TRUE(torch::cat(actions).equal(expected.actions_bhd));
  EXPECT_TRUE(torch::cat(images).equal(expected.observation.images_bcyx[0])) << "not as they are";
  const std::int32_t held_out = setup.split.held_out.front().episode;  // the only one
  for (const Dataset::Sample& sample : setup.split.train) EXPECT_NE(sample.episode, held_out);
}

TEST(Picture, ShowsWhatTheNetworkSees) {
  const testing::TempDir dir;
  Observation observation;
  for (const float value : {-1.0f, 0.5f})  // two cameras, eight samples; one sample is brighter
    observation.images_bcyx.push_back(torch::full({8, 3, 16, 16}, value));
  observation.images_bcyx[0][1].fill_(-3);  // LeRobot 0.4's padding
  observation.images_bcyx[1][2].fill_(1);
  write_picture(dir / "first_batch.jpg", observation);
  const std::string bytes = read_file(dir / "first_batch.jpg");
  const Image picture =
      decode_jpeg(reinterpret_cast<const std::uint8_t*>(bytes.data()), bytes.size(), "first_batch.jpg");
  ASSERT_EQ(picture.height, 2 * 16);
  ASSERT_EQ(picture.width, 6 * 16) << "the first six";
  const auto grey = [&](int row, int column) {
    return picture.bytes[static_cast<std::size_t>((row * 16 + 8) * picture.width + column * 16 + 8) * 3];
  };
  EXPECT_EQ(grey(0, 0), 0);
  EXPECT_EQ(grey(0, 1), 0);
  EXPECT_NEAR(grey(1, 0), 191, 1);
  EXPECT_EQ(grey(1, 2), 255);
}

}  // namespace
}  // namespace shallowpi
