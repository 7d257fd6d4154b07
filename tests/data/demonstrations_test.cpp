#include "shallowpi/data/demonstrations.h"

#include <cmath>
#include <limits>
#include <set>
#include <tuple>

#include "data/fake_episodes.h"
#include "shallowpi/base/problems.h"
#include "test_util.h"

namespace shallowpi::testing {
namespace {

using EpisodeSet = std::set<std::pair<int, int>>;

EpisodeSet episodes_of(const std::vector<Dataset::Sample>& samples) {
  EpisodeSet episodes;
  for (const Dataset::Sample& sample : samples) episodes.insert({sample.source, sample.episode});
  return episodes;
}

TEST(Dataset, SplitsByEpisodeWithinEachFile) {
  const Dataset dataset =
      fake_dataset({{.lengths = std::vector<std::int64_t>(10, 3)}, {.lengths = {4, 5, 6}}});
  const Dataset::Split split = dataset.split(0.2, 7);
  const EpisodeSet train = episodes_of(split.train), held_out = episodes_of(split.held_out);
  EXPECT_EQ(train.size() + held_out.size(), 13u);
  for (const auto& episode : held_out) EXPECT_EQ(train.count(episode), 0u);
  EXPECT_EQ(std::count_if(held_out.begin(), held_out.end(), [](auto e) { return e.first == 0; }), 2);
  EXPECT_EQ(std::count_if(held_out.begin(), held_out.end(), [](auto e) { return e.first == 1; }), 1);
  EXPECT_EQ(split.train.size() + split.held_out.size(), 30u + 15u);
  const auto is_before = [](const Dataset::Sample& a, const Dataset::Sample& b) {
    return std::tie(a.source, a.episode, a.step) < std::tie(b.source, b.episode, b.step);
  };
  EXPECT_TRUE(std::is_sorted(split.train.begin(), split.train.end(), is_before));
}

TEST(Dataset, SplitDependsOnTheSeedAlone) {
  const Dataset dataset = fake_dataset({{.lengths = std::vector<std::int64_t>(20, 1)}});
  std::set<EpisodeSet> choices;
  for (std::uint64_t seed = 0; seed < 10; ++seed) {
    const EpisodeSet held_out = episodes_of(dataset.split(0.25, seed).held_out);
    EXPECT_EQ(held_out.size(), 5u);
    EXPECT_EQ(held_out, episodes_of(dataset.split(0.25, seed).held_out));
    choices.insert(held_out);
  }
  EXPECT_GE(choices.size(), 9u);
}

TEST(Dataset, SplitHoldsOutAtLeastOneAndNeverAll) {
  const Dataset dataset = fake_dataset({{.lengths = {2, 2, 2}}});
  EXPECT_EQ(episodes_of(dataset.split(0.01, 1).held_out).size(), 1u);
  EXPECT_EQ(episodes_of(dataset.split(0.99, 1).held_out).size(), 2u);
  EXPECT_TRUE(dataset.split(0.0, 1).held_out.empty());
  for (double fraction : {-0.1, 1.0, std::nan("")})
    expect_error<UsageError>([&] { dataset.split(fraction, 1); }, "held_out_fraction");
}

TEST(Dataset, HoldsOutWholeRecordings) {
  const FakeOptions recording{.lengths = {1, 1, 1}, .layout = DataFormat::kRecording};
  const Dataset::Split split = fake_dataset(std::vector<FakeOptions>(4, recording)).split(0.25, 5);
  EXPECT_EQ(split.held_out.size(), 3u);
  EXPECT_EQ(split.train.size(), 9u);
  for (const Dataset::Sample& sample : split.held_out) EXPECT_EQ(sample.source, split.held_out[0].source);
  expect_error<UsageError>([&] { fake_dataset({recording}).split(0.25, 5); }, "single episode or recording");
}

TEST(Dataset, SplitsFilesOfOneEpisodeTogether) {
  const std::vector<FakeOptions> files(8, FakeOptions{.lengths = {3}});
  EXPECT_EQ(episodes_of(fake_dataset(files).split(0.25, 3).held_out).size(), 2u);
  expect_error<UsageError>([&] { fake_dataset({{.lengths = {3}}}).split(0.25, 3); }, "single episode",
                           "held_out_fraction to 0");
}

TEST(Dataset, OffersTheCamerasThatAllFilesHaveInCanonicalOrder) {
  const Dataset dataset =
      fake_dataset({{.cameras = {"extra", "right_wrist_0_rgb", "base_0_rgb", "left_wrist_0_rgb"}},
                    {.cameras = {"left_wrist_0_rgb", "base_0_rgb", "extra"}}});
  EXPECT_EQ(dataset.camera_names(), (std::vector<std::string>{"base_0_rgb", "left_wrist_0_rgb", "extra"}));
}

TEST(Dataset, RepeatsTheLastActionAfterTheEpisode) {
  const Dataset dataset = fake_dataset({{}, {.lengths = {2, 4}}});
  const Dataset::Sample sample{1, 1, 2};
  EXPECT_EQ(dataset.file(sample).episodes()[1].length, 4);
  EXPECT_EQ(dataset.state(sample)[1], FakeEpisodes::state_value(1, 2, 1));
  const RobotActions chunk = dataset.chunk(sample, 4);
  ASSERT_EQ(chunk.size(), 4u);
  for (std::int64_t h = 0; h < 4; ++h)
    EXPECT_EQ(chunk[h][1], FakeEpisodes::action_value(1, std::min<std::int64_t>(2 + h, 3), 1)) << h;
}

TEST(Dataset, RefusesWhatDoesNotFitTogether) {
  expect_error<UsageError>([] { Dataset({}); }, "no demonstration file");
  expect_error<UsageError>(
      [] {
        fake_dataset({{.name = "a.hdf5"}, {.name = "b.hdf5", .action_dim = 7}});
      },
      "a.hdf5", "b.hdf5", "different robots");
  expect_error<UsageError>(
      [] {
        fake_dataset({{.cameras = {"one"}}, {.cameras = {"two"}}});
      },
      "no camera in common");
  for (double weight : {0.0, -1.0, std::nan(""), std::numeric_limits<double>::infinity()})
    expect_error<UsageError>([&] { fake_dataset({{}}, {weight}); }, "fake.hdf5", "weight");
}

std::string quickstart(const std::string& name) {
  return std::string(SHALLOWPI_SOURCE_DIR) + "/configs/quickstart/" + name;
}

TEST(OpenDataset, ExpandsPatternsAndDetectsTheLayout) {
  const Dataset dataset =
      open_dataset({{quickstart("*_cheese.hdf5"), 1.0}, {quickstart("butter.hdf5"), 2.5}}, DataFormat::kAuto);
  ASSERT_EQ(dataset.sources().size(), 2u);
  EXPECT_EQ(dataset.sources()[0].file->path().filename(), "cream_cheese.hdf5");
  EXPECT_EQ(dataset.sources()[1].weight, 2.5);
  EXPECT_EQ(dataset.state_dim(), 8);
  EXPECT_EQ(dataset.action_dim(), 7);
  EXPECT_EQ(dataset.camera_names(), (std::vector<std::string>{"base_0_rgb", "left_wrist_0_rgb"}));
}

TEST(OpenDataset, ListsAllFilesThatCannotBeUsed) {
  TempDir folder;
  const std::string all = (folder / "*.hdf5").string();
  write_text(folder / "00.hdf5", "x");
  expect_error<CorruptError>([&] { open_dataset({{all, 1.0}}, DataFormat::kAuto); }, "00.hdf5");
  for (int i = 1; i < 22; ++i) write_text(folder / str(i < 10 ? "0" : "", i, ".hdf5"), "x");
  expect_error<ManyProblems>(
      [&] {
        open_dataset({{quickstart("*.hdf5"), 1.0}, {all, 1.0}}, DataFormat::kAuto);
      },
      "22 demonstration files", "00.hdf5", "19.hdf5", "and 2 more");
}

TEST(OpenDataset, RefusesBadRequests) {
  expect_error<UsageError>(
      [] {
        open_dataset({{quickstart("none_*.hdf5"), 1.0}}, DataFormat::kAuto);
      },
      "none_*.hdf5");
  expect_error<UsageError>(
      [] {
        open_dataset({{"my/*.hdf5", 1.0}}, DataFormat::kAuto);
      },
      "my/*.hdf5: no file matches in " + std::filesystem::current_path().string());
  expect_error<UsageError>([] { open_dataset({}, DataFormat::kAuto); }, "no demonstration file");
  expect_error<UsageError>(
      [] {
        open_dataset({{quickstart("*.hdf5"), 1.0}, {quickstart("butter.hdf5"), 2.0}}, DataFormat::kLibero);
      },
      "butter.hdf5", "name each file once");
  expect_error<UsageError>(
      [] {
        open_dataset({{quickstart("butter.hdf5"), 1.0}}, DataFormat::kAloha);
      },
      "butter.hdf5: data.format is aloha, but the file looks like libero");
}

TEST(SpreadSamples, TakesEvenlySpacedFrames) {
  std::vector<Dataset::Sample> samples(12);
  for (std::int32_t i = 0; i < 12; ++i) samples[static_cast<std::size_t>(i)].step = i;
  const auto three = spread_samples(samples, 3);
  ASSERT_EQ(three.size(), 3u);
  EXPECT_EQ(three[0].step, 2);
  EXPECT_EQ(three[1].step, 6);
  EXPECT_EQ(three[2].step, 10);
  EXPECT_EQ(spread_samples(samples, 0).size(), 12u);
  EXPECT_EQ(spread_samples(samples, 50).size(), 12u);
  EXPECT_TRUE(spread_samples({}, 4).empty());
}

}  // namespace
}  // namespace shallowpi::testing
