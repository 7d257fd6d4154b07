// Intervals and tests for success rates.
#pragma once

#include <cstdint>

namespace shallowpi {

struct Interval {
  double low = 0, high = 0;
};

/// Wilson's 95 % interval of a proportion; [0, 1] where n is 0.
Interval wilson_interval(std::int64_t successes, std::int64_t n);

/// Two policies on the same episodes.
struct PairedCounts {
  std::int64_t both = 0, only_first = 0, only_second = 0, neither = 0;
  std::int64_t n() const { return both + only_first + only_second + neither; }
};

/// Two-sided exact McNemar test: how likely a split of the discordant episodes at least this uneven is where
/// both policies are equally good.
double mcnemar_exact(const PairedCounts& counts);

/// Rate of the second minus rate of the first, and its 95 % interval (Newcombe 1998, paired, method 10).
double paired_difference(const PairedCounts& counts);
Interval paired_difference_interval(const PairedCounts& counts);

}  // namespace shallowpi
