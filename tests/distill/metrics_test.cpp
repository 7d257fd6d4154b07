#include "distill/metrics.h"

#include <cmath>

#include "distill/progress.h"
#include "shallowpi/base/memory.h"
#include "test_util.h"

namespace shallowpi {
namespace {

using testing::TempDir;

TEST(MetricWindow, AveragesAndStartsAnew) {
  MetricWindow window;
  window.add({{"loss", 1.0}, {"norm", 4.0}});
  window.add({{"loss", 2.0}, {"norm", 0.0}});
  const auto means = window.take();
  EXPECT_DOUBLE_EQ(means.at("loss"), 1.5);
  EXPECT_DOUBLE_EQ(means.at("norm"), 2.0);
  EXPECT_TRUE(window.take().empty());
}

TEST(MetricsLog, WritesOneLinePerStepAndCutsWhatCameAfterACheckpoint) {
  TempDir dir;
  std::uint64_t bytes = 0;
  {
    MetricsLog log(dir.path(), 0, 0);
    log.write(1, {{"loss", 0.1}, {"skipped", 0}});
    bytes = log.sync();
    log.write(2, {{"loss", 1e-7}});
  }
  EXPECT_EQ(read_file(dir / "metrics.jsonl"),
            "{\"step\":1,\"loss\":0.1,\"skipped\":0}\n{\"step\":2,\"loss\":1e-07}\n");
  MetricsLog resumed(dir.path(), 1, bytes);
  resumed.write(2, {{"loss", 0.5}});
  EXPECT_EQ(read_file(dir / "metrics.jsonl"),
            "{\"step\":1,\"loss\":0.1,\"skipped\":0}\n{\"step\":2,\"loss\":0.5}\n");
}

TEST(MetricsLog, WritesNullForWhatIsNotFinite) {
  TempDir dir;
  MetricsLog log(dir.path(), 0, 0);
  log.write(1, {{"nan", std::nan("")}, {"inf", INFINITY}, {"large", 1e300}, {"count", -3}});
  EXPECT_EQ(read_file(dir / "metrics.jsonl"),
            "{\"step\":1,\"nan\":null,\"inf\":null,\"large\":1e+300,\"count\":-3}\n");
}

TEST(MetricsLog, RefusesALogThatIsShorterThanItsCheckpointSays) {
  TempDir dir;
  testing::expect_error<CorruptError>([&] { MetricsLog(dir.path(), 5, 1000); }, "metrics.jsonl", "1000");
}

TEST(Memory, ControlGroupsLimitIt) {
  TempDir root;
  const auto write = [&](const std::string& file, const std::string& text) {
    std::filesystem::create_directories((root / file).parent_path());
    testing::write_text(root / file, text);
  };
  write("job_7/memory.max", "4000\n");
  write("job_7/step_0/memory.max", "max\n");
  write("memory/pod/memory.limit_in_bytes", "3000\n");
  EXPECT_EQ(cgroup_limit("0::/job_7/step_0\n", root.path()), 4000u) << "its parent's";
  EXPECT_EQ(cgroup_limit("0::/job_7/step_0\n5:cpu,memory:/pod\n", root.path()), 3000u);
  EXPECT_GT(cgroup_limit("5:cpu:/pod\n0::/\n", root.path()), std::uint64_t{1} << 60);
  EXPECT_LE(total_memory(c10::kCPU), cgroup_limit("0::/\n", "/nowhere"));
}

TEST(ProgressLine, ShowsEveryTermAndTheTimeLeft) {
  StepTiming timing;
  timing.samples_per_second = 64.08;
  timing.wait_share = 0.031;
  timing.memory_bytes = std::uint64_t{3} << 29;
  timing.seconds_left = 42.3;
  EXPECT_EQ(progress_line(120, 3000, {{"loss", 0.123456}, {"lr", 2.5e-5}}, timing),
            "step 120/3000  left 42 s  64.1 samples/s  data wait 3 %  loss 0.1235  lr 2.5e-05  1.5 GiB");
  EXPECT_GT(resident_bytes(), std::uint64_t{1} << 20);
  const std::uint64_t resident = resident_bytes();  // before the peak: reading it takes memory
  EXPECT_GE(peak_resident_bytes(), resident);
  EXPECT_GE(peak_memory(c10::kCPU), resident);
}

}  // namespace
}  // namespace shallowpi
