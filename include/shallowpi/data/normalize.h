// Normalisation in the four conventions of openpi and LeRobot, and statistics computed from demonstrations.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "shallowpi/base/norm_stats.h"
#include "shallowpi/base/policy_spec.h"

namespace shallowpi {

/// In place over the first min(values, stats) dims; further dims pass unchanged.
void normalize(const FeatureStats& stats, NormMode mode, std::vector<float>& values);
void unnormalize(const FeatureStats& stats, NormMode mode, std::vector<float>& values);

/// Throws UsageError where the statistics lack what `mode` needs, have another width than the data (32, as
/// old openpi files are padded, will do), or a reversed range in one of the first `width` dims.
void check_stats(const FeatureStats& stats, NormMode mode, std::size_t width, std::string_view what);
/// For training: throws UsageError where one of the first `width` dims has no range at all. A policy that was
/// trained so runs (openpi's do): such an action is always its mean.
void check_ranges(const FeatureStats& stats, NormMode mode, std::size_t width, std::string_view what);
/// Sentences on dimensions that are nearly constant (normalised values would explode); empty where all is
/// well.
std::vector<std::string> stats_warnings(const NormStats& stats, NormMode mode);

/// Gives these dims a range so wide that every value within +-1000 normalises to 0.004 +- 0.002 in any mode:
/// the middle of pi0.5's state bin 128. A policy trained so can learn nothing from them, wherever it is
/// deployed. Throws UsageError for a dim that the statistics do not have.
void hide_dims(FeatureStats& stats, const std::vector<std::int64_t>& dims);

/// Accumulates rows; population std and exact quantiles (linear interpolation) over all rows. Holds one float
/// per value.
class StatsBuilder {
 public:
  void add(const std::vector<float>& row);
  /// With `min_range` > 0, q01..q99 half-ranges and stds below it are widened to it around their middle.
  /// Throws UsageError where there were no rows.
  FeatureStats finish(double min_range = 0.0) const;

 private:
  std::vector<std::vector<float>> columns_;
};

}  // namespace shallowpi
