#include "eval/statistics.h"

#include <gtest/gtest.h>

#include "shallowpi/data/random.h"

namespace shallowpi {
namespace {

TEST(Statistics, WilsonAgreesWithPublishedValues) {
  // Newcombe 1998, Table I, method 3.
  const auto near = [](std::int64_t r, std::int64_t n, double low, double high) {
    const Interval interval = wilson_interval(r, n);
    EXPECT_NEAR(interval.low, low, 5e-5) << r << "/" << n;
    EXPECT_NEAR(interval.high, high, 5e-5) << r << "/" << n;
  };
  near(81, 263, 0.2553, 0.3662);
  near(15, 148, 0.0624, 0.1605);
  near(0, 20, 0.0, 0.1611);
  near(1, 29, 0.0061, 0.1718);
  EXPECT_EQ(wilson_interval(20, 20).high, 1.0);
  EXPECT_EQ(wilson_interval(0, 0).high, 1.0);
}

TEST(Statistics, McNemarIsABinomialTest) {
  EXPECT_NEAR(mcnemar_exact({5, 1, 9, 3}), 2.0 * 11 / 1024, 1e-12);  // P(X <= 1 of 10) twice
  EXPECT_NEAR(mcnemar_exact({5, 0, 4, 3}), 0.125, 1e-12);
  EXPECT_EQ(mcnemar_exact({5, 3, 3, 1}), 1.0);
  EXPECT_EQ(mcnemar_exact({5, 0, 0, 1}), 1.0);
}

TEST(Statistics, ThePairedIntervalAgreesWithAPublishedValueAndCoversTheTruth) {
  // Newcombe 1998b, Table II: (a, b, c, d) = (36, 12, 2, 0), method 10.
  const PairedCounts counts{36, 2, 12, 0};
  EXPECT_NEAR(paired_difference(counts), 0.2, 1e-12);
  const Interval swapped = paired_difference_interval({36, 12, 2, 0}),
                 interval = paired_difference_interval(counts);
  EXPECT_NEAR(swapped.low, -interval.high, 1e-12);
  EXPECT_NEAR(swapped.high, -interval.low, 1e-12);
  EXPECT_NEAR(interval.low, 0.0569, 5e-4);
  EXPECT_NEAR(interval.high, 0.3404, 5e-4);

  // 150 paired episodes, 80 % and 76 %, correlated.
  Random random({1});
  int covered = 0;
  constexpr int kRepeats = 4000;
  for (int i = 0; i < kRepeats; ++i) {
    PairedCounts drawn;
    for (int k = 0; k < 150; ++k) {
      const double u = random.uniform();
      ++(u < 0.70 ? drawn.both : u < 0.80 ? drawn.only_first : u < 0.86 ? drawn.only_second : drawn.neither);
    }
    const Interval of_drawn = paired_difference_interval(drawn);
    covered += of_drawn.low <= -0.04 && -0.04 <= of_drawn.high;
  }
  EXPECT_NEAR(double(covered) / kRepeats, 0.95, 0.015);
}

}  // namespace
}  // namespace shallowpi
