// Runs a policy as fast as LibTorch's operators allow: nothing is recorded for gradients, and what does not
// depend on the observation is computed once.
#pragma once

#include <map>
#include <memory>
#include <vector>

#include "shallowpi/base/observation.h"
#include "shallowpi/model/policy.h"

namespace shallowpi {

/// What one call of the engine is asked for.
struct EngineRequest {
  Observation observation;        ///< on the host
  torch::Tensor noise_bhd;        ///< float32 [B, H, 32]
  std::int64_t steps = 10;        ///< Euler steps
  torch::Tensor given_bhd{};      ///< optional, as in SampleOptions
  torch::Tensor given_mask_bh{};  ///< with given_bhd
};

/// Wall-clock milliseconds of a call's parts, each measured to its end on the device.
struct StageTimes {
  double vision_ms = 0, prefix_ms = 0;
  std::vector<double> step_ms;  ///< one per Euler step
};

/// Not thread-safe. The policy's weights must not change while the engine uses it.
class Engine {
 public:
  /// `policy` with all its parameters on `device`.
  Engine(Policy policy, torch::Device device);

  torch::Device device() const { return device_; }
  const PolicyConfig& config() const { return policy_->config(); }

  /// Normalised actions float32 [B, H, 32], on the host. With `times` the device is waited for after every
  /// stage, which costs a little where it is a GPU. Throws UsageError as Policy does.
  torch::Tensor sample(const EngineRequest& request, StageTimes* times = nullptr);

 private:
  std::shared_ptr<const StepConditioning> conditioning(std::int64_t steps);

  Policy policy_;
  torch::Device device_;
  std::map<std::int64_t, std::shared_ptr<const StepConditioning>> conditioning_;  // by number of steps
};

}  // namespace shallowpi
