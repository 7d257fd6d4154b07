#include "shallowpi/data/recording.h"

#include <cmath>

#include "shallowpi/base/policy_spec.h"
#include "shallowpi/base/safetensors.h"
#include "shallowpi/data/demonstrations.h"
#include "test_util.h"

namespace shallowpi::testing {
namespace {

/// Of a robot with two state and three action dims; `n` is in every number.
RecordedAnswer answer(int n) {
  RecordedAnswer answer;
  for (const char* camera : {"base_0_rgb", "left.wrist"}) {
    Image& image = answer.observation.images[camera];
    image = {2, 3 + n, std::vector<std::uint8_t>(std::size_t(3 * 2 * (3 + n)))};
    for (std::size_t i = 0; i < image.bytes.size(); ++i)
      image.bytes[i] = static_cast<std::uint8_t>(i + std::size_t(10 * n) + camera[0]);
  }
  answer.observation.state = {float(n), 0.5f};
  answer.observation.prompt = str("task ", n);
  for (int h = 0; h < 4; ++h) answer.actions.push_back({float(n), float(h), -1});
  answer.time_s = 1e9 + n;
  return answer;
}

class RecordingTest : public ::testing::Test {
 protected:
  RecordingTest() { save_recording(path_, {answer(1), answer(2)}, 20); }

  /// What opening says after `change` to the tensors and the metadata.
  template <typename Change>
  void expect_refused(Change change, const std::string& what) {
    NamedTensors tensors = load_safetensors(path_);
    std::map<std::string, std::string> metadata = SafetensorsFile(path_).metadata();
    change(tensors, metadata);
    const auto broken = dir_ / "broken.safetensors";
    save_safetensors(broken, tensors, metadata);
    expect_error<CorruptError>([&] { open_recording(broken); }, "broken.safetensors", what);
  }

  TempDir dir_;
  const std::filesystem::path path_ = dir_ / "run_0000.safetensors";
};

TEST_F(RecordingTest, IsReadAsItWasAnswered) {
  const auto file = open_recording(path_);
  EXPECT_EQ(file->path(), path_);
  EXPECT_EQ(file->camera_names(), (std::vector<std::string>{"base_0_rgb", "left.wrist"}));
  EXPECT_EQ(file->state_dim(), 2);
  EXPECT_EQ(file->action_dim(), 3);
  EXPECT_EQ(file->control_hz(), 20);
  ASSERT_EQ(file->episodes().size(), 2u);
  for (int n = 0; n < 2; ++n) {
    const RecordedAnswer given = answer(n + 1);
    EXPECT_EQ(file->episodes()[n].prompt, given.observation.prompt);
    EXPECT_EQ(file->episodes()[n].length, 4);
    EXPECT_EQ(file->actions(n), given.actions);
    EXPECT_EQ(file->states(n).front(), given.observation.state);
    const std::vector<Image> images = file->frame(n, 0, {1, 0});
    for (const auto& [image, camera] : {std::pair{images[0], "left.wrist"}, {images[1], "base_0_rgb"}}) {
      const Image& sent = given.observation.images.at(camera);
      EXPECT_EQ(std::tie(image.height, image.width, image.bytes),
                std::tie(sent.height, sent.width, sent.bytes));
    }
  }
  expect_error<UsageError>([&] { file->frame(2, 0, {0}); }, "no answer 2");
  expect_error<UsageError>([&] { file->frame(0, 4, {0}); }, "answer_0 has no step 4");
  expect_error<UsageError>([&] { file->frame(0, 0, {2}); }, "no camera 2");
}

TEST_F(RecordingTest, IsASampleForEachObservationWithTheWholeChunk) {
  const Dataset dataset = open_dataset({{(dir_ / "*.safetensors").string(), 1.0}}, DataFormat::kAuto);
  const std::vector<Dataset::Sample> samples = dataset.split(0, 1).train;
  ASSERT_EQ(samples.size(), 2u);
  EXPECT_EQ(dataset.chunk(samples[1], 4), answer(2).actions);
  EXPECT_EQ(dataset.state(samples[1]), answer(2).observation.state);
  EXPECT_EQ(open_episodes(path_)->layout(), DataFormat::kRecording);
}

TEST_F(RecordingTest, ARateThatIsNotKnownIsNone) {
  save_recording(path_, {answer(1)}, 0);
  EXPECT_EQ(open_recording(path_)->control_hz(), 0);
}

TEST_F(RecordingTest, NamesWhatIsWrong) {
  expect_refused([](auto&, auto& metadata) { metadata.clear(); }, "is no recording");
  expect_refused([](auto&, auto& metadata) { metadata.begin()->second = "{"; }, "shallowpi_recording");
  expect_refused(
      [](auto&, auto& metadata) {
        metadata.begin()->second = R"({"control_hz": 20, "prompts": ["one"], "times": [1]})";
      },
      "2 states, 2 chunks of actions and 1 prompts");
  expect_refused([](auto& tensors, auto&) { tensors.erase("state"); }, "state is missing");
  expect_refused(
      [](auto& tensors, auto&) {
        tensors["state"] = torch::zeros({2, 0});
      },
      "state has shape [2, 0]");
  expect_refused([](auto& tensors, auto&) { tensors["actions"][1][3][2] = NAN; }, "actions is not finite");
  expect_refused(
      [](auto& tensors, auto&) {
        tensors["actions"] = torch::zeros({1, 4, 3});
      },
      "2 states, 1 chunks");
  expect_refused(
      [](auto& tensors, auto&) {
        tensors["actions"] = torch::zeros({2, 4, 3}, torch::kFloat64);
      },
      "another dtype than float32");
  expect_refused(
      [](auto& tensors, auto&) {
        tensors["actions"] = torch::zeros({2, kMaxHorizon + 1, 1});
      },
      "chunks of 10001 actions");
  expect_refused(
      [](auto& tensors, auto&) {
        tensors["state"] = torch::zeros({2, kMaxTextStateDim + 1});
      },
      "states with 1025");
  expect_refused([](auto& tensors, auto&) { tensors.erase("image.left.wrist.1"); },
                 "image.left.wrist.1 is missing");
  expect_refused([](auto& tensors, auto&) { tensors["image.base_0_rgb.2"] = tensors["image.base_0_rgb.1"]; },
                 "5 images for 2 answers");
  expect_refused(
      [](auto& tensors, auto&) {
        tensors["image.base_0_rgb.1"] = torch::zeros({2, 3, 4}, torch::kUInt8);
      },
      "image.base_0_rgb.1 has shape [2, 3, 4]");
  expect_refused(
      [](auto& tensors, auto&) {
        tensors["image.0"] = torch::zeros({2, 3, 3}, torch::kUInt8);
      },
      "image..0 is missing");
}

}  // namespace
}  // namespace shallowpi::testing
