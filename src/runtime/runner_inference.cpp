// The controller's inference by a loaded policy.
#include <ATen/CPUGeneratorImpl.h>
#include <torch/torch.h>

#include <algorithm>

#include "data/policy_sample.h"
#include "shallowpi/data/normalize.h"
#include "shallowpi/data/random.h"
#include "shallowpi/data/robot.h"
#include "shallowpi/runtime/action_chunk_controller.h"
#include "shallowpi/runtime/policy_runner.h"

namespace shallowpi {

ChunkingOptions chunking_for(const PolicySpec& spec) {
  ChunkingOptions options;
  options.horizon = spec.horizon;
  options.execute = std::min(options.execute, options.horizon);
  if (spec.robot.kind == RobotKind::kLibero) {
    // OSC_POSE: a displacement of position and rotation, then the gripper's command.
    options.relative_dims.assign(static_cast<std::size_t>(spec.robot.action_dim), true);
    options.relative_dims.back() = false;
  }
  return options;
}

torch::Tensor normalized_prefix(const PolicyTransform& transform, const ActionChunk& actions,
                                const std::vector<float>& raw_state) {
  if (actions.empty()) return {};
  const RobotSpec& robot = transform.spec().robot;
  std::vector<float> state = raw_state;
  state_to_policy(robot, state);
  ActionChunk policy_actions = actions;
  actions_to_policy(robot, state, policy_actions);
  torch::Tensor prefix_hd = torch::empty({static_cast<std::int64_t>(actions.size()), kPaddedDims});
  float* row = prefix_hd.data_ptr<float>();
  for (Action& action : policy_actions) {
    normalize(transform.stats().actions, transform.spec().norm_mode, action);
    write_padded(action, row);
    row += kPaddedDims;
  }
  return prefix_hd;
}

ChunkInference runner_inference(std::shared_ptr<PolicyRunner> runner, std::int64_t steps,
                                std::uint64_t seed) {
  struct Shared {
    std::mutex mutex;
    std::uint64_t calls = 0;
  };
  auto shared = std::make_shared<Shared>();
  return [runner, steps, seed, shared](const RobotObservation& observation, const ActionChunk& prefix) {
    const std::lock_guard lock(shared->mutex);
    InferRequest request;
    request.observation = observation;
    auto generator = at::make_generator<at::CPUGeneratorImpl>(Random({seed, shared->calls++}).next());
    request.noise_hd =
        torch::randn({runner->info().spec.horizon, runner->info().config.action_dim}, generator);
    request.prefix_actions_hd = normalized_prefix(runner->transform(), prefix, observation.state);
    return runner->infer({request}, {.steps = steps}).at(0).actions;
  };
}

}  // namespace shallowpi
