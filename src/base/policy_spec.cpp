#include "shallowpi/base/policy_spec.h"

#include <algorithm>

#include "shallowpi/base/error.h"
#include "shallowpi/base/text.h"

namespace shallowpi {

void check_robot_spec(const RobotSpec& robot) {
  constexpr std::int64_t kAlohaDim = 14;
  if (robot.kind == RobotKind::kAloha && (robot.state_dim != kAlohaDim || robot.action_dim != kAlohaDim))
    throw UsageError(str("the ALOHA robot has 14 state and action values, not ", robot.state_dim, " and ",
                         robot.action_dim, "; use robot kind 'joints' for other robots"));
  const auto last = std::find(robot.delta_mask.rbegin(), robot.delta_mask.rend(), true);
  const std::int64_t reach = robot.delta_mask.rend() - last;
  if (reach > std::min(robot.state_dim, robot.action_dim))
    throw UsageError(str("delta_mask marks dim ", reach - 1, ", but there are ", robot.state_dim,
                         " state and ", robot.action_dim, " action values; shorten the mask"));
}

}  // namespace shallowpi
