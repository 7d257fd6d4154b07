#include "data/policy_sample.h"

#include <algorithm>

#include "shallowpi/base/error.h"
#include "shallowpi/data/robot.h"

namespace shallowpi {

PolicySample policy_sample(const Dataset& dataset, const Dataset::Sample& sample, const PolicySpec& spec) {
  const EpisodeFile& file = *dataset.sources()[sample.source].file;
  const std::vector<std::vector<float>>& episode = file.actions(sample.episode);
  PolicySample result;
  result.state = file.states(sample.episode)[sample.step];
  result.actions.reserve(spec.horizon);
  for (std::int64_t h = 0; h < spec.horizon; ++h)
    result.actions.push_back(episode[std::min<std::size_t>(sample.step + h, episode.size() - 1)]);
  state_to_policy(spec.robot, result.state);
  actions_to_policy(spec.robot, result.state, result.actions);
  return result;
}

void check_spec(const PolicySpec& spec) {
  const RobotSpec& robot = spec.robot;
  const auto check_width = [&](std::string_view what, std::int64_t dims) {
    if (dims < 1 || dims > spec.action_width)
      throw UsageError(str("the robot has ", dims, " ", what, " dims; this policy takes 1 to at most ",
                           spec.action_width));
  };
  check_width("state", robot.state_dim);
  check_width("action", robot.action_dim);
  if (spec.horizon < 1)
    throw UsageError(str("the horizon is ", spec.horizon, " action steps; it must be at least 1"));
  for (std::size_t dim = 0; dim < robot.delta_mask.size(); ++dim)
    if (robot.delta_mask[dim] &&
        static_cast<std::int64_t>(dim) >= std::min(robot.state_dim, robot.action_dim))
      throw UsageError(str("delta_mask marks action dim ", dim, ", but the robot has ", robot.action_dim,
                           " action and ", robot.state_dim, " state dims"));
}

void check_robot(const Dataset& dataset, const PolicySpec& spec) {
  check_spec(spec);
  const auto check_width = [](std::string_view what, std::int64_t spec_dims, std::int64_t data_dims) {
    if (spec_dims != data_dims)
      throw UsageError(str("the policy's robot has ", spec_dims, " ", what, " dims, the data has ", data_dims,
                           "; set policy.robot to the robot of the data, or use its data"));
  };
  check_width("state", spec.robot.state_dim, dataset.state_dim());
  check_width("action", spec.robot.action_dim, dataset.action_dim());
}

}  // namespace shallowpi
