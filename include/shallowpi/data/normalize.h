// Normalisation in the four conventions of openpi and LeRobot.
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
/// The dims that never changed: what `mode` divides by is 0.
std::vector<std::size_t> dims_without_range(const FeatureStats& stats, NormMode mode);
/// For training: throws UsageError where a dim has no range at all. A policy trained with such statistics
/// still runs (some of openpi's have them): that action is then always its mean.
void check_ranges(const FeatureStats& stats, NormMode mode, std::string_view what);
/// Sentences on dims that are nearly constant (normalised values would explode); empty where all is well.
std::vector<std::string> stats_warnings(const NormStats& stats, NormMode mode);

/// Gives these dims a range so wide that every value within +-1000 normalises to 0.004 +- 0.002 in any mode:
/// the middle of pi0.5's state bin 128. A policy trained so can learn nothing from them, wherever it is
/// deployed. Throws UsageError for a dim that the statistics do not have.
void hide_dims(FeatureStats& stats, const std::vector<std::int64_t>& dims);

}  // namespace shallowpi
