#include "eval/video.h"

#include <cstdlib>
#include <set>
#include <string>

#include "eval/rollout_fixture.h"
#include "shallowpi/eval/rollout.h"
#include "test_util.h"

namespace shallowpi {
namespace {

using testing::TempDir;

/// "width,height,frames" of a video.
std::string format_of(const std::filesystem::path& video) {
  const TempDir dir;
  const std::string probe =
      str("ffprobe -v error -select_streams v -count_frames -show_entries ",
          "stream=width,height,nb_read_frames -of csv=p=0 ", video.string(), " > ", (dir / "probe").string());
  EXPECT_EQ(std::system(probe.c_str()), 0);
  return std::string(trim(read_file(dir / "probe")));
}

TEST(VideoWriter, TakesOddSides) {
  TempDir dir;
  VideoWriter video(dir / "odd.mp4", 34, 17, 20);
  video.write(std::string(5 * 34 * 17 * 3, 'x'));
  video.finish(dir / "odd.mp4");
  EXPECT_EQ(format_of(dir / "odd.mp4"), "34,18,5");
}

TEST_F(RolloutTest, RecordsTheChosenTrialsAndComparesThemSideBySide) {
  options_.tasks = {0};
  options_.videos = 1;
  options_.video_trials = {2};
  run("a");
  options_.max_steps = 8;
  options_.image_size = 32;
  run("b");
  const auto names = [](const std::filesystem::path& folder) {
    std::set<std::string> out;
    for (const auto& entry : std::filesystem::directory_iterator(folder))
      out.insert(entry.path().filename().string());
    return out;
  };
  using Names = std::set<std::string>;
  EXPECT_EQ(names(dir_ / "a/videos"),
            (Names{"libero_object_task0_trial0_success.mp4", "libero_object_task0_trial2_success.mp4"}));
  EXPECT_EQ(format_of(dir_ / "a/videos/libero_object_task0_trial0_success.mp4"), "32,16,12");
  EXPECT_EQ(format_of(dir_ / "b/videos/libero_object_task0_trial0_failure.mp4"), "64,32,8");
  std::filesystem::copy(dir_ / "a/videos/libero_object_task0_trial0_success.mp4",
                        dir_ / "a/videos/libero_object_task0_trial0_failure.mp4");  // of an earlier run
  CompareOptions compare;
  compare.runs = {(dir_ / "a").string(), (dir_ / "b").string()};
  compare.video = dir_ / "videos";
  compare.within = 8;  // a's successes come later: they do not count, their videos are the same
  ::testing::internal::CaptureStdout();
  run_compare(compare);
  ::testing::internal::GetCapturedStdout();
  EXPECT_EQ(names(dir_ / "videos"),
            (Names{"libero_object_task0_trial0.mp4", "libero_object_task0_trial2.mp4"}));
  EXPECT_EQ(format_of(dir_ / "videos/libero_object_task0_trial0.mp4"), "1024,256,12")
      << "of one height, until the longer one ends";
}

}  // namespace
}  // namespace shallowpi
