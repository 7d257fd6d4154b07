// Actions between the robot and the network, both ways.
#include "data/policy_sample.h"
#include "shallowpi/base/error.h"
#include "shallowpi/base/text.h"
#include "shallowpi/data/normalize.h"
#include "shallowpi/data/policy_transform.h"
#include "shallowpi/data/robot.h"

namespace shallowpi {

RobotActions policy_actions(const PolicySpec& spec, const FeatureStats& action_stats, RobotActions actions,
                            const std::vector<float>& raw_state) {
  std::vector<float> state = raw_state;
  state_to_policy(spec.robot, state);
  actions_to_policy(spec.robot, state, actions);
  for (std::vector<float>& action : actions) normalize(action_stats, spec.norm_mode, action);
  return actions;
}

torch::Tensor PolicyTransform::from_robot(RobotActions actions, const std::vector<float>& raw_state) const {
  actions = policy_actions(spec_, stats_.actions, std::move(actions), raw_state);
  const std::int64_t width = spec_.action_width;
  torch::Tensor actions_hd = torch::empty({static_cast<std::int64_t>(actions.size()), width});
  float* row = actions_hd.data_ptr<float>();
  for (const std::vector<float>& action : actions) {
    write_padded(action, row, width);
    row += width;
  }
  return actions_hd;
}

RobotActions PolicyTransform::to_robot(const torch::Tensor& actions_hd,
                                       const std::vector<float>& raw_state) const {
  const std::int64_t dims = spec_.robot.action_dim;
  if (actions_hd.dim() != 2 || actions_hd.size(1) < dims)
    throw UsageError(str("actions of shape ", shape_text(actions_hd.sizes().vec()), " where [H, >= ", dims,
                         "] is needed"));
  const torch::Tensor values = actions_hd.to(torch::kCPU, torch::kFloat32).contiguous();
  RobotActions actions;
  for (std::int64_t h = 0; h < values.size(0); ++h) {
    const float* row = values.data_ptr<float>() + h * values.size(1);
    unnormalize(stats_.actions, spec_.norm_mode, actions.emplace_back(row, row + dims));
  }
  std::vector<float> policy_state = raw_state;
  state_to_policy(spec_.robot, policy_state);
  actions_to_robot(spec_.robot, policy_state, actions);
  return actions;
}

}  // namespace shallowpi
