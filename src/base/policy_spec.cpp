#include "shallowpi/base/policy_spec.h"

#include <algorithm>

#include "shallowpi/base/error.h"
#include "shallowpi/base/text.h"

namespace shallowpi {

std::int64_t delta_reach(const RobotSpec& robot) {
  return robot.delta_mask.rend() - std::find(robot.delta_mask.rbegin(), robot.delta_mask.rend(), true);
}

void check_robot_spec(const RobotSpec& robot) {
  if (robot.kind == RobotKind::kAloha && (robot.state_dim != kAlohaDim || robot.action_dim != kAlohaDim))
    throw UsageError(str("the ALOHA robot has ", kAlohaDim, " state and action values, not ", robot.state_dim,
                         " and ", robot.action_dim, "; use robot kind 'joints' for other robots"));
  const std::int64_t reach = delta_reach(robot);
  if (reach > std::min(robot.state_dim, robot.action_dim))
    throw UsageError(str("delta_mask marks dim ", reach - 1, ", but there are ", robot.state_dim,
                         " state and ", robot.action_dim, " action values; shorten the mask"));
}

}  // namespace shallowpi
