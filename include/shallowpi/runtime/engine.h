// Runs a policy fast: nothing is recorded for gradients, and what does not depend on the observation is
// computed once. One interface, two engines over the one forward code of the model: the eager one launches
// LibTorch's operators one by one, the graph engine replays them as one CUDA graph per shape.
#pragma once

#include <map>
#include <memory>
#include <vector>

#include "shallowpi/base/enum_names.h"
#include "shallowpi/base/observation.h"
#include "shallowpi/base/policy_spec.h"
#include "shallowpi/model/policy.h"

namespace shallowpi {

/// What one call of the engine is asked for.
struct EngineRequest {
  Observation observation;  ///< on the host
  torch::Tensor noise_bhd;  ///< float32 [B, H, A]
  std::int64_t steps = kEulerSteps;
  torch::Tensor given_bhd{};      ///< optional, as in SampleOptions
  torch::Tensor given_mask_bh{};  ///< with given_bhd
};

/// Wall-clock milliseconds of a call's parts, each measured to its end on the device.
struct StageTimes {
  double vision_ms = 0, prefix_ms = 0;
  std::vector<double> step_ms;  ///< one per Euler step; empty: the engine runs a chunk as one piece
};

enum class EngineKind { kAuto, kEager, kGraph };
template <>
inline constexpr auto kEnumNames<EngineKind> = std::to_array<EnumName<EngineKind>>({
    {EngineKind::kAuto, "auto"},
    {EngineKind::kEager, "eager"},
    {EngineKind::kGraph, "graph"},
});

/// Not thread-safe. The policy's weights must not change while the engine uses it.
class Engine {
 public:
  virtual ~Engine() = default;

  torch::Device device() const { return device_; }
  const PolicyConfig& config() const { return policy_->config(); }
  /// kEager or kGraph: what the next chunk is computed with.
  virtual EngineKind kind() const = 0;

  /// Normalised actions float32 [B, H, A], on the host. With `times` the eager engine waits for the device
  /// after every stage, which costs a little where it is a GPU. Throws UsageError as Policy does.
  virtual torch::Tensor sample(const EngineRequest& request, StageTimes* times = nullptr) = 0;

 protected:
  /// `policy` with all its parameters on `device`.
  Engine(Policy policy, torch::Device device);
  /// What `steps` steps need of the flow time. Throws UsageError unless there are 1..kMaxEulerSteps.
  std::shared_ptr<const StepConditioning> conditioning(std::int64_t steps);

  Policy policy_;
  torch::Device device_;

 private:
  std::map<std::int64_t, std::shared_ptr<const StepConditioning>> conditioning_;  // by number of steps
};

/// auto: graph on a GPU, eager elsewhere; a GPU on which no graph can be captured gets the eager engine, with
/// a warning. Throws UsageError for graph on a CPU, or in a build without CUDA.
std::unique_ptr<Engine> make_engine(Policy policy, torch::Device device, EngineKind kind = EngineKind::kAuto);

}  // namespace shallowpi
