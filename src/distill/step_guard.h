// Decides whether a step's gradient may be applied.
#pragma once

#include <cstdint>
#include <vector>

namespace shallowpi {

enum class StepVerdict { kApply, kNonFinite, kOutlier };

/// Skips steps whose loss or gradient is not finite, and (where asked) those whose gradient norm lies far
/// above the recent ones. The members are the whole state; a resumed run restores them.
struct StepGuard {
  static constexpr std::size_t kWindow = 128;  ///< finite norms that mean and deviation are taken over

  std::vector<double> norms;  ///< ring of the last finite norms; outliers are judged once it is full
  std::int64_t next = 0;      ///< where the ring is written next
  std::int64_t skipped = 0;   ///< skipped steps so far
  std::int64_t in_a_row = 0;  ///< skipped steps in a row, up to now

  /// `sigma` 0 switches the outlier test off. Every finite norm enters the window, outliers too, so that a
  /// lasting change becomes the new normal.
  StepVerdict judge(double loss, double norm, double sigma);
};

}  // namespace shallowpi
