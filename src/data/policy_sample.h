// One sample in policy space: after the robot's maps, before normalisation.
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

#include "shallowpi/base/policy_spec.h"
#include "shallowpi/data/demonstrations.h"

namespace shallowpi {

struct PolicySample {
  std::vector<float> state;  ///< [state_dim]
  RobotActions actions;      ///< [horizon][action_dim]; after the episode's end the last one repeats
};

PolicySample policy_sample(const Dataset& dataset, const Dataset::Sample& sample, const PolicySpec& spec);

/// Copies `values` to the front of a row of `width` and zeroes the rest.
inline void write_padded(const std::vector<float>& values, float* row, std::int64_t width) {
  std::fill(std::copy(values.begin(), values.end(), row), row + width, 0.0f);
}

/// Throws UsageError where check_spec does, and where the robot of `spec` and the data differ in width.
void check_fits(const Dataset& dataset, const PolicySpec& spec);

}  // namespace shallowpi
