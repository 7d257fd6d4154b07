#include "data/policy_sample.h"

#include "shallowpi/base/error.h"
#include "shallowpi/base/text.h"
#include "shallowpi/data/robot.h"

namespace shallowpi {

PolicySample policy_sample(const Dataset& dataset, const Dataset::Sample& sample, const PolicySpec& spec) {
  PolicySample result{dataset.state(sample), dataset.chunk(sample, spec.horizon)};
  state_to_policy(spec.robot, result.state);
  actions_to_policy(spec.robot, result.state, result.actions);
  return result;
}

void check_fits(const Dataset& dataset, const PolicySpec& spec) {
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
