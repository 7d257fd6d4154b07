// One sample in policy space: after the robot's maps, before normalisation.
#pragma once

#include <vector>

#include "shallowpi/data/demonstrations.h"

namespace shallowpi {

inline constexpr std::int64_t kPaddedDims = 32;  ///< width of state and actions in the network

struct PolicySample {
  std::vector<float> state;  ///< [state_dim]
  std::vector<std::vector<float>>
      actions;  ///< [horizon][action_dim]; after the episode's end the last one repeats
};

PolicySample policy_sample(const Dataset& dataset, const Dataset::Sample& sample, const PolicySpec& spec);

/// Throws UsageError where the robot of `spec` and the data differ in width, or something is out of range.
void check_robot(const Dataset& dataset, const PolicySpec& spec);

}  // namespace shallowpi
