// Normalisation statistics computed from demonstrations.
#pragma once

#include <vector>

#include "shallowpi/base/norm_stats.h"
#include "shallowpi/base/policy_spec.h"
#include "shallowpi/data/demonstrations.h"

namespace shallowpi {

/// Accumulates rows; population std and exact quantiles (linear interpolation) over all
/// rows. Holds one float per value.
class StatsBuilder {
 public:
  void add(const std::vector<float>& row);
  /// With `min_range` > 0, q01..q99 half-ranges and stds below it are widened to it around their middle.
  /// Throws UsageError where there were no rows.
  FeatureStats finish(double min_range = 0.0) const;

 private:
  std::vector<std::vector<float>> columns_;
};

/// Statistics over policy-space states and action chunks of `samples` (openpi: whole chunks, so that most
/// actions count H times). `min_range` is StatsBuilder's, in units before normalisation. Throws UsageError
/// where there are no samples, or the robot of `spec` and the data differ in width.
NormStats compute_norm_stats(const Dataset& dataset, const std::vector<Dataset::Sample>& samples,
                             const PolicySpec& spec, double min_range = 0.0);

}  // namespace shallowpi
