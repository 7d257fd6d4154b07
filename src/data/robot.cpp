#include "shallowpi/data/robot.h"

#include <algorithm>
#include <array>
#include <cmath>

#include "shallowpi/base/error.h"
#include "shallowpi/base/text.h"

namespace shallowpi {
namespace {

constexpr std::array<std::size_t, 2> kAlohaGrippers = {6, 13};
// pi's joint directions differ from ALOHA's on these joints (openpi, aloha_policy.py).
constexpr std::array<float, kAlohaDim> kAlohaFlips = {1, -1, -1, 1, 1, 1, 1, 1, -1, -1, 1, 1, 1, 1};

double to_unit(double value, double low, double high) {
  return (value - low) / (high - low);
}
double from_unit(double value, double low, double high) {
  return value * (high - low) + low;
}

// ALOHA reports the gripper's opening as a linear position, pi was trained on the angle of another gripper.
double gripper_state_to_policy(double value) {
  constexpr double kHorn = 0.022, kArm = 0.036;  // metres: lengths of the Interbotix linkage
  const double position = from_unit(value, 0.01844, 0.05800);
  const double ratio = (kHorn * kHorn + position * position - kArm * kArm) / (2 * kHorn * position);
  return to_unit(std::asin(std::clamp(ratio, -1.0, 1.0)), 0.5476, 1.6296);
}

double gripper_action_to_policy(double value) {
  return from_unit(value, -0.6213, 1.4910) - 0.5476;
}
double gripper_action_to_robot(double value) {
  return to_unit(value + 0.5476, -0.6213, 1.4910);
}

void check_width(const std::vector<float>& row, std::int64_t expected, std::string_view what) {
  if (static_cast<std::int64_t>(row.size()) != expected) {
    throw UsageError(str("the ", what, " has ", row.size(), " values, but the robot is described with ",
                         expected,
                         "; correct the robot's dimensions in the config, or use the data it was made for"));
  }
}

template <typename GripperMap>
void convert_aloha(std::vector<float>& row, GripperMap gripper) {
  for (std::size_t joint = 0; joint < kAlohaFlips.size(); ++joint) row[joint] *= kAlohaFlips[joint];
  for (std::size_t joint : kAlohaGrippers) row[joint] = static_cast<float>(gripper(row[joint]));
}

// Adds `sign` times the state on the dimensions that are relative to it.
void shift_by_state(const RobotSpec& robot, const std::vector<float>& state, float sign,
                    std::vector<float>& action) {
  for (std::size_t dim = 0; dim < std::min(robot.delta_mask.size(), action.size()); ++dim)
    if (robot.delta_mask[dim]) action[dim] += sign * state[dim];
}

}  // namespace

void state_to_policy(const RobotSpec& robot, std::vector<float>& state) {
  check_robot(robot);
  check_width(state, robot.state_dim, "state");
  if (robot.kind == RobotKind::kAloha) convert_aloha(state, gripper_state_to_policy);
}

void actions_to_policy(const RobotSpec& robot, const std::vector<float>& policy_state,
                       RobotActions& actions) {
  check_robot(robot);
  check_width(policy_state, robot.state_dim, "state");
  for (std::vector<float>& action : actions) {
    check_width(action, robot.action_dim, "action");
    if (robot.kind == RobotKind::kAloha) convert_aloha(action, gripper_action_to_policy);
    shift_by_state(robot, policy_state, -1.0f, action);
  }
}

void actions_to_robot(const RobotSpec& robot, const std::vector<float>& policy_state, RobotActions& actions) {
  check_robot(robot);
  check_width(policy_state, robot.state_dim, "state");
  for (std::vector<float>& action : actions) {
    check_width(action, robot.action_dim, "action");
    shift_by_state(robot, policy_state, 1.0f, action);
    if (robot.kind == RobotKind::kAloha) convert_aloha(action, gripper_action_to_robot);
  }
}

}  // namespace shallowpi
