// Conversions between a robot's own numbers and the policy's (openpi's robot Inputs / Outputs and
// DeltaActions).
#pragma once

#include <vector>

#include "shallowpi/base/policy_spec.h"

namespace shallowpi {

/// Raw robot state -> policy state, in place (before normalisation).
void state_to_policy(const RobotSpec& robot, std::vector<float>& state);

/// Raw robot actions [H][A] -> policy actions, in place: robot maps, then minus the (policy-space) state on
/// delta dims.
void actions_to_policy(const RobotSpec& robot, const std::vector<float>& policy_state,
                       std::vector<std::vector<float>>& actions);

/// The inverse, for the policy's un-normalised output.
void actions_to_robot(const RobotSpec& robot, const std::vector<float>& policy_state,
                      std::vector<std::vector<float>>& actions);

}  // namespace shallowpi
