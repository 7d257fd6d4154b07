#include "runtime/recorder.h"

#include <algorithm>
#include <chrono>
#include <functional>
#include <thread>

#include "shallowpi/data/readers.h"
#include "test_util.h"

namespace shallowpi::testing {
namespace {

namespace fs = std::filesystem;

RobotObservation observation(float state, std::int64_t side = 4) {
  RobotObservation seen;
  seen.images["base_0_rgb"] = {side, side, std::vector<std::uint8_t>(std::size_t(3 * side * side), 7)};
  seen.state = {state};
  seen.prompt = "fold the towel";
  return seen;
}

std::vector<fs::path> files_in(const fs::path& folder) {
  const fs::directory_iterator entries(folder);
  std::vector<fs::path> paths(begin(entries), end(entries));
  std::sort(paths.begin(), paths.end());
  return paths;
}

/// What the recordings of a folder say, by file: the states.
std::vector<std::vector<float>> recorded(const fs::path& folder) {
  std::vector<std::vector<float>> states;
  for (const fs::path& path : files_in(folder)) {
    const auto file = open_episodes(path);
    states.emplace_back();
    for (std::int64_t n = 0; n < std::ssize(file->episodes()); ++n)
      states.back().push_back(file->states(n)[0][0]);
  }
  return states;
}

class RecorderTest : public ::testing::Test {
 protected:
  RecorderTest() { prepare_recording_folder(folder_, 0); }  // on a small disk too

  /// What is recorded of `sent`.
  std::vector<std::vector<float>> record(const std::vector<RobotObservation>& sent, RecorderOptions options) {
    options.least_free = 0;
    {
      Recorder recorder(folder_, 30, options);
      for (const RobotObservation& seen : sent) recorder.add(seen, actions_);
    }
    return recorded(folder_);
  }
  /// Whether `done` within five seconds.
  static bool comes(const std::function<bool()>& done) {
    for (int i = 0; i < 500 && !done(); ++i) std::this_thread::sleep_for(std::chrono::milliseconds(10));
    return done();
  }

  TempDir dir_;
  const fs::path folder_ = dir_ / "made" / "here";
  const RobotActions actions_{{1, 2}, {3, 4}};
};

TEST_F(RecorderTest, WritesTheRestAtItsEnd) {
  EXPECT_EQ(record({observation(0), observation(1), observation(2)}, {}),
            (std::vector<std::vector<float>>{{0, 1, 2}}));
  const auto file = open_episodes(files_in(folder_).front());
  EXPECT_EQ(file->actions(2), actions_);
  EXPECT_EQ(file->control_hz(), 30);
}

TEST_F(RecorderTest, WithoutAnAnswerThereIsNoFile) {
  EXPECT_TRUE(record({}, {}).empty());
}

TEST_F(RecorderTest, AFileEndsWithItsLastAnswer) {
  const std::vector<RobotObservation> sent{observation(0), observation(1), observation(2)};
  EXPECT_EQ(record(sent, {.max_answers = 2}), (std::vector<std::vector<float>>{{0, 1}, {2}}));
}

TEST_F(RecorderTest, AFileEndsWithItsLastByte) {
  const std::vector<RobotObservation> sent{observation(0, 4), observation(1, 5), observation(2, 4)};
  EXPECT_EQ(record(sent, {.max_bytes = 3 * (16 + 25)}), (std::vector<std::vector<float>>{{0, 1}, {2}}));
}

TEST_F(RecorderTest, OtherCamerasGoToOtherFiles) {
  RobotObservation two = observation(1);
  two.images["left_wrist_0_rgb"] = two.images["base_0_rgb"];
  EXPECT_EQ(record({observation(0), two, observation(2), two}, {}),
            (std::vector<std::vector<float>>{{0, 2}, {1, 1}}));
  EXPECT_NE(files_in(folder_)[1].string().find("_2cameras_"), std::string::npos);
}

TEST_F(RecorderTest, AnAnswerDoesNotWaitForMore) {
  Recorder recorder(folder_, 30, {.max_seconds = 0, .least_free = 0});
  recorder.add(observation(7), actions_);
  EXPECT_TRUE(comes([&] {
    const std::vector<fs::path> files = files_in(folder_);
    return !files.empty() && files[0].extension() == ".safetensors";  // not its temporary
  }));
  EXPECT_EQ(recorded(folder_), std::vector<std::vector<float>>{{7}});
}

TEST_F(RecorderTest, ADiskThatIsTooSlowLosesAnswersAlone) {
  const std::vector<RobotObservation> sent{observation(0), observation(1), observation(2)};
  EXPECT_EQ(record(sent, {.max_answers = 2, .max_waiting = 0}), (std::vector<std::vector<float>>{{2}}));
}

TEST_F(RecorderTest, AFailureEndsTheRecordingAlone) {
  fs::remove_all(folder_);
  ::testing::internal::CaptureStderr();
  {
    Recorder recorder(folder_, 30, {.max_answers = 1});
    for (int n = 0; n < 3; ++n) recorder.add(observation(float(n)), actions_);
  }
  const std::string said = ::testing::internal::GetCapturedStderr();
  const std::size_t warning = said.find("recording has ended");
  EXPECT_NE(warning, std::string::npos) << said;
  EXPECT_EQ(said.find("recording has ended", warning + 1), std::string::npos) << said;
  EXPECT_FALSE(fs::exists(folder_));
}

TEST_F(RecorderTest, AFolderIsMadeReady) {
  EXPECT_TRUE(fs::is_directory(folder_));
  write_text(folder_ / "run_000000.safetensors.tmp-999999999-0", "half");
  prepare_recording_folder(folder_, 0);
  EXPECT_TRUE(files_in(folder_).empty());
  write_text(dir_ / "file", "");
  expect_error<IoError>([&] { prepare_recording_folder(dir_ / "file"); }, "--record", "file");
  expect_error<IoError>([&] { prepare_recording_folder("/proc/self"); }, "/proc/self");
}

}  // namespace
}  // namespace shallowpi::testing
