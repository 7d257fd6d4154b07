#include "shallowpi/data/normalize.h"

#include <algorithm>

#include "shallowpi/base/error.h"
#include "shallowpi/base/text.h"

namespace shallowpi {
namespace {

// Below this half-range or std (in the data's own units) a dimension counts as nearly constant.
constexpr double kNearlyConstant = 1e-3;
// A std this many times the half-range means that values outside q01..q99 lie far outside.
constexpr double kHeavyTail = 5.0;
constexpr std::size_t kOldPadding = 32;  // dims in statistics of early openpi

// Each mode is normalised = (x - offset) / forward and x = normalised * backward + offset; LeRobot's mean_std
// divides by another number than it multiplies with. The quantile modes map q01..q99 to -1..1.
struct Scale {
  double offset, forward, backward;
};

Scale scale_of(const FeatureStats& stats, NormMode mode, std::size_t dim) {
  const double epsilon = norm_epsilon(mode);
  switch (mode) {
    case NormMode::kZScore: {
      const double width = stats.std[dim] + epsilon;
      return {stats.mean[dim], width, width};
    }
    case NormMode::kLeRobotMeanStd:
      return {stats.mean[dim], stats.std[dim] + epsilon, stats.std[dim]};
    case NormMode::kQuantile: {
      const double width = stats.q99[dim] - stats.q01[dim] + epsilon;
      return {stats.q01[dim], width, width};
    }
    case NormMode::kLeRobotQuantiles: {
      const double range = stats.q99[dim] - stats.q01[dim];
      const double width = range == 0.0 ? epsilon : range;
      return {stats.q01[dim], width, width};
    }
  }
  throw Error("unknown normalisation mode");
}

std::size_t stats_width(const FeatureStats& stats, NormMode mode) {
  return uses_quantiles(mode) ? std::min(stats.q01.size(), stats.q99.size())
                              : std::min(stats.mean.size(), stats.std.size());
}

// What the mode divides by, without its epsilon: the q01..q99 range or the std.
double spread_of(const FeatureStats& stats, NormMode mode, std::size_t dim) {
  return uses_quantiles(mode) ? stats.q99[dim] - stats.q01[dim] : stats.std[dim];
}

std::string range_text(const FeatureStats& stats, NormMode mode, std::size_t dim) {
  return uses_quantiles(mode) ? str("q01 ", stats.q01[dim], ", q99 ", stats.q99[dim])
                              : str("mean ", stats.mean[dim], ", std ", stats.std[dim]);
}

std::string nearly_constant_warning(const FeatureStats& stats, NormMode mode, std::size_t dim,
                                    std::string_view what) {
  const bool quantiles = uses_quantiles(mode);
  const double half = quantiles ? spread_of(stats, mode, dim) / 2 : stats.std[dim];
  const bool heavy_tail = quantiles && dim < stats.std.size() && stats.std[dim] > kHeavyTail * half;
  if (half >= kNearlyConstant && !heavy_tail) return "";
  const double reference = heavy_tail ? stats.std[dim] : 0.01;
  return str("normalisation: ", what, " dim ", dim, " is nearly constant (", range_text(stats, mode, dim),
             "): a value ", reference, " away from its middle becomes ",
             fixed(reference / std::max(half, norm_epsilon(mode) / 2), 1),
             " after normalisation and will dominate the loss; recompute the statistics with "
             "data.min_norm_range (for instance 0.01), or widen this dim in norm_stats.json");
}

}  // namespace

void normalize(const FeatureStats& stats, NormMode mode, std::vector<float>& values) {
  const std::size_t dims = std::min(values.size(), stats_width(stats, mode));
  for (std::size_t dim = 0; dim < dims; ++dim) {
    const Scale scale = scale_of(stats, mode, dim);
    const double unit = (values[dim] - scale.offset) / scale.forward;
    values[dim] = static_cast<float>(uses_quantiles(mode) ? unit * 2.0 - 1.0 : unit);
  }
}

void unnormalize(const FeatureStats& stats, NormMode mode, std::vector<float>& values) {
  const std::size_t dims = std::min(values.size(), stats_width(stats, mode));
  for (std::size_t dim = 0; dim < dims; ++dim) {
    const Scale scale = scale_of(stats, mode, dim);
    const double unit = uses_quantiles(mode) ? (values[dim] + 1.0) / 2.0 : values[dim];
    values[dim] = static_cast<float>(unit * scale.backward + scale.offset);
  }
}

void hide_dims(FeatureStats& stats, const std::vector<std::int64_t>& dims) {
  constexpr double kFar = 1e6, kBinMiddle = 0.004;  // a bin is 1/128 wide
  for (const std::int64_t dim : dims) {
    if (dim < 0 || dim >= static_cast<std::int64_t>(stats.width()))
      throw UsageError(str("cannot hide state dim ", dim, ": there are ", stats.width(), ", counted from 0"));
    stats.mean[dim] = -kFar * kBinMiddle;
    stats.std[dim] = kFar;
    stats.q01[dim] = -kFar;
    stats.q99[dim] = kFar * (1 - 2 * kBinMiddle);
  }
}

void check_stats(const FeatureStats& stats, NormMode mode, std::size_t width, std::string_view what) {
  const std::size_t have = stats_width(stats, mode);
  const std::string_view needed = uses_quantiles(mode) ? "q01 and q99" : "mean and std";
  if (have == 0)
    throw UsageError(str("normalisation statistics of ", what, " lack ", needed, ", which norm_mode ",
                         enum_name(mode), " needs; recompute them or choose another norm_mode"));
  // Old openpi files are padded to 32 dims; openpi itself reads the first ones of any longer file.
  const bool is_padded = have == kOldPadding && width < have;
  if (have != width && !is_padded)
    throw UsageError(str(
        "normalisation statistics of ", what, " have ", have, " dims, the robot has ", width,
        "; name statistics of this robot (data.norm_stats), such as those of a policy trained on its data"));
  for (std::size_t dim = 0; dim < width; ++dim)
    if (!(spread_of(stats, mode, dim) >= 0.0))
      throw UsageError(str("normalisation statistics of ", what, ": dim ", dim, " has a reversed range (",
                           range_text(stats, mode, dim), "); recompute them (data.norm_stats=compute)"));
}

std::vector<std::size_t> dims_without_range(const FeatureStats& stats, NormMode mode) {
  std::vector<std::size_t> dims;
  for (std::size_t dim = 0; dim < stats_width(stats, mode); ++dim)
    if (!(spread_of(stats, mode, dim) > 0.0)) dims.push_back(dim);
  return dims;
}

void check_ranges(const FeatureStats& stats, NormMode mode, std::string_view what) {
  const std::vector<std::size_t> dims = dims_without_range(stats, mode);
  if (dims.empty()) return;
  throw UsageError(str("normalisation statistics of ", what, ": dim ", dims.front(), " has no range (",
                       range_text(stats, mode, dims.front()),
                       "), so any other value would explode; recompute them (data.norm_stats=compute) with "
                       "data.min_norm_range, or widen this dim in norm_stats.json"));
}

std::vector<std::string> stats_warnings(const NormStats& stats, NormMode mode) {
  std::vector<std::string> warnings;
  for (const auto& [feature, what] : {std::pair{&stats.state, "state"}, std::pair{&stats.actions, "actions"}})
    for (std::size_t dim = 0; dim < stats_width(*feature, mode); ++dim) {
      std::string warning = nearly_constant_warning(*feature, mode, dim, what);
      if (!warning.empty()) warnings.push_back(std::move(warning));
    }
  return warnings;
}

}  // namespace shallowpi
