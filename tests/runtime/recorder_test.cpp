#include "runtime/recorder.h"

#include <algorithm>

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
    const auto file = open_recording(path);
    states.emplace_back();
    for (std::int64_t n = 0; n < std::ssize(file->episodes()); ++n)
      states.back().push_back(file->states(n)[0][0]);
  }
  return states;
}

class RecorderTest : public ::testing::Test {
 protected:
  TempDir dir_;
  const fs::path folder_ = dir_ / "made" / "here";
  const RobotActions actions_{{1, 2}, {3, 4}};
};

TEST_F(RecorderTest, WritesTheRestAtItsEnd) {
  {
    Recorder recorder(folder_, 30);
    for (int n = 0; n < 3; ++n) recorder.add(observation(float(n)), actions_);
    EXPECT_TRUE(recorded(folder_).empty());
  }
  EXPECT_EQ(recorded(folder_), (std::vector<std::vector<float>>{{0, 1, 2}}));
  const auto file = open_recording(files_in(folder_).front());
  EXPECT_EQ(file->actions(2), actions_);
  EXPECT_EQ(file->control_hz(), 30);
}

TEST_F(RecorderTest, WithoutAnAnswerThereIsNoFile) {
  { Recorder recorder(folder_, 30); }
  EXPECT_TRUE(fs::is_directory(folder_));
  EXPECT_TRUE(recorded(folder_).empty());
}

TEST_F(RecorderTest, BeginsAFileAfter64Answers) {
  {
    Recorder recorder(folder_, 0);
    for (int n = 0; n < 65; ++n) recorder.add(observation(float(n)), actions_);
  }
  const auto files = recorded(folder_);
  ASSERT_EQ(files.size(), 2u);
  EXPECT_EQ(files[0].size(), 64u);
  EXPECT_EQ(files[1], std::vector<float>{64});
}

TEST_F(RecorderTest, BeginsAFileWhereTheCamerasChange) {
  {
    Recorder recorder(folder_, 0);
    recorder.add(observation(1), actions_);
    RobotObservation more = observation(2);
    more.images["left_wrist_0_rgb"] = more.images["base_0_rgb"];
    recorder.add(more, actions_);
  }
  EXPECT_EQ(recorded(folder_), (std::vector<std::vector<float>>{{1}, {2}}));
}

TEST_F(RecorderTest, ADiskThatFailsEndsTheRecordingAlone) {
  {
    Recorder recorder(folder_, 0);
    fs::remove_all(folder_);
    for (int n = 0; n < 3 * 64; ++n) recorder.add(observation(float(n)), actions_);
  }
  EXPECT_FALSE(fs::exists(folder_));
}

TEST_F(RecorderTest, NamesAFolderThatCannotBeMade) {
  write_text(dir_ / "file", "");
  expect_error<IoError>([&] { Recorder(dir_ / "file", 0); }, "--record", "file");
}

}  // namespace
}  // namespace shallowpi::testing
