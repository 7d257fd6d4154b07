#include "shallowpi/data/stats.h"

#include <algorithm>
#include <cmath>

#include "data/policy_sample.h"
#include "shallowpi/base/error.h"
#include "shallowpi/base/text.h"

namespace shallowpi {
namespace {

constexpr std::size_t kMaxRows = 20'000'000;  // action steps; 14 dims of them are 1.1 GB

// numpy's default ("linear") quantile. Reorders `column`.
double quantile(std::vector<float>& column, double q) {
  const double position = q * static_cast<double>(column.size() - 1);
  const auto low = column.begin() + static_cast<std::ptrdiff_t>(position);
  std::nth_element(column.begin(), low, column.end());
  const double fraction = position - std::floor(position);
  if (fraction == 0.0) return *low;
  const double high = *std::min_element(low + 1, column.end());
  return *low + (high - *low) * fraction;
}

void widen(double& low, double& high, double min_half_range) {
  if (high - low >= 2 * min_half_range) return;
  const double middle = (low + high) / 2;
  low = middle - min_half_range;
  high = middle + min_half_range;
}

}  // namespace

void StatsBuilder::add(const std::vector<float>& row) {
  if (columns_.empty()) columns_.resize(row.size());
  if (columns_.size() != row.size())
    throw UsageError(str("statistics: a row of ", row.size(), " values after rows of ", columns_.size()));
  for (std::size_t dim = 0; dim < row.size(); ++dim) columns_[dim].push_back(row[dim]);
}

FeatureStats StatsBuilder::finish(double min_range) const {
  if (columns_.empty()) throw UsageError("statistics: there are no samples to compute them from");
  FeatureStats stats;
  for (const std::vector<float>& values : columns_) {
    const double count = static_cast<double>(values.size());
    double sum = 0.0, squares = 0.0;
    for (float value : values) sum += value;
    const double mean = sum / count;
    for (float value : values) squares += (value - mean) * (value - mean);
    std::vector<float> column = values;
    double q01 = quantile(column, 0.01), q99 = quantile(column, 0.99);
    widen(q01, q99, min_range);
    stats.mean.push_back(mean);
    stats.std.push_back(std::max(std::sqrt(squares / count), min_range));
    stats.q01.push_back(q01);
    stats.q99.push_back(q99);
  }
  return stats;
}

// openpi's compute_norm_stats.py runs the data transforms (robot maps, delta actions) over the training set
// and counts every step of every chunk. Of a large set every n-th chunk does, and fits into memory.
NormStats compute_norm_stats(const Dataset& dataset, const std::vector<Dataset::Sample>& samples,
                             const PolicySpec& spec, double min_range) {
  check_fits(dataset, spec);
  StatsBuilder states, actions;
  const std::size_t every = 1 + samples.size() * static_cast<std::size_t>(spec.horizon) / kMaxRows;
  for (std::size_t i = 0; i < samples.size(); i += every) {
    const PolicySample policy = policy_sample(dataset, samples[i], spec);
    states.add(policy.state);
    for (const std::vector<float>& action : policy.actions) actions.add(action);
  }
  return {states.finish(min_range), actions.finish(min_range)};
}

}  // namespace shallowpi
