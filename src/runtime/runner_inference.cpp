// The controller's inference by a loaded policy.
#include <torch/torch.h>

#include <algorithm>
#include <atomic>

#include "shallowpi/data/random.h"
#include "shallowpi/runtime/action_chunk_controller.h"
#include "shallowpi/runtime/policy_runner.h"

namespace shallowpi {

ChunkingOptions chunking_for(const PolicySpec& spec) {
  ChunkingOptions options;
  options.horizon = spec.horizon;
  options.execute = std::min(options.execute, options.horizon);
  options.trained_delay = spec.rtc_training_max_delay;
  if (spec.control_hz > 0) options.control_hz = spec.control_hz;
  if (spec.robot.kind == RobotKind::kLibero) {
    // OSC_POSE: a displacement of position and rotation, then the gripper's command.
    options.relative_dims.assign(static_cast<std::size_t>(spec.robot.action_dim), true);
    options.relative_dims.back() = false;
  }
  return options;
}

ChunkInference runner_inference(std::shared_ptr<PolicyRunner> runner, std::int64_t steps, std::uint64_t seed,
                                double noise_scale) {
  runner->warm_up(steps);
  auto calls = std::make_shared<std::atomic<std::uint64_t>>(0);
  return [=](RobotObservation observation, const RobotActions& prefix) {
    const std::uint64_t noise_seed = Random({seed, (*calls)++}).next();
    std::vector<InferRequest> batch;  // an initializer list would copy the images
    batch.push_back(runner->request(std::move(observation), prefix, noise_seed, noise_scale));
    return runner->infer(batch, {.steps = steps}).at(0).actions;
  };
}

}  // namespace shallowpi
