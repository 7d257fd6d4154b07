#include "distill/step_guard.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>

namespace shallowpi {
namespace {

// A full window of norms around 1 with deviation 0.1.
StepGuard full_window() {
  StepGuard guard;
  for (std::size_t i = 0; i < StepGuard::kWindow; ++i) guard.judge(0.5, i % 2 ? 1.1 : 0.9, 3.0);
  return guard;
}

TEST(StepGuard, SkipsAndCountsWhatIsNotFinite) {
  StepGuard guard;
  const double nan = std::nan(""), inf = std::numeric_limits<double>::infinity();
  EXPECT_EQ(guard.judge(0.5, 1.0, 0), StepVerdict::kApply);
  EXPECT_EQ(guard.judge(nan, 1.0, 0), StepVerdict::kNonFinite);
  EXPECT_EQ(guard.judge(0.5, nan, 0), StepVerdict::kNonFinite);
  EXPECT_EQ(guard.judge(0.5, inf, 0), StepVerdict::kNonFinite);
  EXPECT_EQ(guard.skipped, 3);
  EXPECT_EQ(guard.in_a_row, 3);
  EXPECT_EQ(guard.judge(0.5, 1.0, 0), StepVerdict::kApply);
  EXPECT_EQ(guard.in_a_row, 0);
  EXPECT_EQ(guard.skipped, 3);
  EXPECT_EQ(guard.norms.size(), 2u) << "only finite norms enter the window";
}

TEST(StepGuard, JudgesOutliersOnlyAgainstAFullWindow) {
  StepGuard young;
  young.judge(0.5, 1.0, 3.0);
  EXPECT_EQ(young.judge(0.5, 1000.0, 3.0), StepVerdict::kApply);
  StepGuard guard = full_window();
  EXPECT_EQ(guard.judge(0.5, 1.25, 3.0), StepVerdict::kApply);
  EXPECT_EQ(guard.judge(0.5, 1.5, 3.0), StepVerdict::kOutlier);
  EXPECT_EQ(guard.judge(0.5, 0.001, 3.0), StepVerdict::kApply) << "small gradients are no outliers";
  EXPECT_EQ(full_window().judge(0.5, 1000.0, 0), StepVerdict::kApply) << "off";
}

TEST(StepGuard, AcceptsALastingChange) {
  StepGuard guard = full_window();
  EXPECT_EQ(guard.judge(0.5, 5.0, 3.0), StepVerdict::kOutlier);
  std::int64_t more = 0;
  while (guard.judge(0.5, 5.0, 3.0) == StepVerdict::kOutlier) ++more;
  EXPECT_LT(more, 64);
}

}  // namespace
}  // namespace shallowpi
