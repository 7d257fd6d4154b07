#include "distill/schedule.h"

#include <gtest/gtest.h>

namespace shallowpi {
namespace {

OptimizerConfig config() {
  OptimizerConfig config;
  config.peak_lr = 2.5e-5;
  config.end_lr = 2.5e-6;
  config.warmup_steps = 1000;
  config.decay_steps = 30000;
  return config;
}

TEST(Schedule, WarmsUpLinearlyFromAFractionOfThePeak) {
  const double start = 2.5e-5 / 1001;
  EXPECT_DOUBLE_EQ(learning_rate(config(), 0), start);
  EXPECT_DOUBLE_EQ(learning_rate(config(), 500), start + (2.5e-5 - start) * 0.5);
  EXPECT_LT(learning_rate(config(), 999), 2.5e-5);
  EXPECT_DOUBLE_EQ(learning_rate(config(), 1000), 2.5e-5);
}

TEST(Schedule, FollowsACosineThatStartsAfterWarmUp) {
  EXPECT_NEAR(learning_rate(config(), 1000 + 29000 / 2), (2.5e-5 + 2.5e-6) / 2, 1e-18);
  // A quarter of the way: (1 + cos(pi/4)) / 2 of the range.
  EXPECT_NEAR(learning_rate(config(), 1000 + 29000 / 4), 2.5e-6 + 2.25e-5 * 0.8535533905932737, 1e-18);
}

TEST(Schedule, StaysAtItsEnd) {
  EXPECT_DOUBLE_EQ(learning_rate(config(), 30000), 2.5e-6);
  EXPECT_DOUBLE_EQ(learning_rate(config(), 1000000), 2.5e-6);
}

TEST(Schedule, NeedsNoWarmUpAndNoDecay) {
  OptimizerConfig flat = config();
  flat.warmup_steps = 0;
  flat.decay_steps = 0;
  flat.end_lr = flat.peak_lr;
  for (std::int64_t step : {0, 1, 100}) EXPECT_DOUBLE_EQ(learning_rate(flat, step), 2.5e-5);
}

}  // namespace
}  // namespace shallowpi
