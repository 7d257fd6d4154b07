// Conversions between a robot's own numbers and the policy's (openpi's Inputs, Outputs and DeltaActions).
#pragma once

#include <vector>

#include "shallowpi/base/policy_spec.h"
#include "shallowpi/data/dataset.h"

namespace shallowpi {

// All three throw UsageError where check_robot does, or a row has another width than the robot.

/// Raw robot state -> policy state, in place (before normalisation).
void state_to_policy(const RobotSpec& robot, std::vector<float>& state);

/// Raw robot actions -> policy actions, in place: robot maps, then minus the policy's state on delta dims.
void actions_to_policy(const RobotSpec& robot, const std::vector<float>& policy_state, RobotActions& actions);

/// The inverse, for the policy's un-normalised output.
void actions_to_robot(const RobotSpec& robot, const std::vector<float>& policy_state, RobotActions& actions);

}  // namespace shallowpi
