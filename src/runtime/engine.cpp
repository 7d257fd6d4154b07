#include "shallowpi/runtime/engine.h"

#include <torch/torch.h>

#include <optional>

#include "runtime/graph_engine.h"
#include "runtime/inference_settings.h"
#include "shallowpi/base/error.h"
#include "shallowpi/base/log.h"
#include "shallowpi/base/stopwatch.h"
#include "shallowpi/base/text.h"

namespace shallowpi {
namespace {

// Clients choose the number of steps; this many tables (a few MB each at most) are kept.
constexpr std::size_t kMaxTables = 8;

/// Milliseconds between its calls, each time when the device has done all its work.
class StageClock {
 public:
  explicit StageClock(torch::Device device) : device_(device) { lap(); }
  double lap() {
    if (device_.is_cuda()) torch::cuda::synchronize(device_.index());
    return 1e3 * watch_.lap();
  }

 private:
  torch::Device device_;
  Stopwatch watch_;
};

class EagerEngine : public Engine {
 public:
  EagerEngine(Policy policy, torch::Device device) : Engine(std::move(policy), device) {}

  EngineKind kind() const override { return EngineKind::kEager; }
  torch::Tensor sample(const EngineRequest& request, StageTimes* times) override {
    const torch::InferenceMode guard;
    const InferenceSettings settings(policy_, device_);
    SampleOptions options;
    options.conditioning = conditioning(request.steps);
    const Observation observation = request.observation.to(device_);
    const torch::Tensor noise_bhd = request.noise_bhd.to(device_);
    if (request.given_mask_bh.defined()) {
      options.given_bhd = request.given_bhd.to(device_);
      options.given_mask_bh = request.given_mask_bh.to(device_);
    }
    std::optional<StageClock> clock;
    torch::Tensor image_tokens;
    if (times != nullptr) {
      *times = {};
      clock.emplace(device_);
      image_tokens = policy_->embed_images(observation);
      times->vision_ms = clock->lap();
      options.after_step = [&] { times->step_ms.push_back(clock->lap()); };
    }
    const PrefixCache cache = policy_->encode(observation, nullptr, image_tokens);
    if (clock) times->prefix_ms = clock->lap();
    return policy_->sample_actions(cache, observation.state_bd, noise_bhd, request.steps, options)
        .to(torch::kCPU);
  }
};

/// Graphs until one cannot be captured, which LibTorch or the driver may refuse; from then on eager.
class AutoEngine : public Engine {
 public:
  AutoEngine(const Policy& policy, torch::Device device)
      : Engine(policy, device),
        graph_(std::make_unique<GraphEngine>(policy, device, cuda_graph_recorder(device))),
        eager_(policy, device) {}

  EngineKind kind() const override { return graph_ ? EngineKind::kGraph : EngineKind::kEager; }
  torch::Tensor sample(const EngineRequest& request, StageTimes* times) override {
    if (graph_) {
      try {
        return graph_->sample(request, times);
      } catch (const c10::Error& problem) {
        log::warning(
            "the graph engine failed, so the eager one goes on (--engine eager avoids the attempt): ",
            problem.what_without_backtrace());
        graph_.reset();
      }
    }
    return eager_.sample(request, times);
  }

 private:
  std::unique_ptr<GraphEngine> graph_;
  EagerEngine eager_;
};

}  // namespace

Engine::Engine(Policy policy, torch::Device device) : policy_(std::move(policy)), device_(device) {}

std::shared_ptr<const StepConditioning> Engine::conditioning(std::int64_t steps) {
  if (steps < 1 || steps > kMaxEulerSteps)
    throw UsageError(str("num_steps is ", steps, "; it must be in 1..", kMaxEulerSteps));
  const auto known = conditioning_.find(steps);
  if (known != conditioning_.end()) return known->second;
  if (conditioning_.size() >= kMaxTables) conditioning_.clear();
  return conditioning_[steps] = policy_->step_conditioning(steps);
}

std::unique_ptr<Engine> make_engine(Policy policy, torch::Device device, EngineKind kind) {
  if (kind == EngineKind::kGraph)
    return std::make_unique<GraphEngine>(std::move(policy), device, cuda_graph_recorder(device));
  if (kind == EngineKind::kAuto && cuda_graphs_available(device))
    return std::make_unique<AutoEngine>(policy, device);
  return std::make_unique<EagerEngine>(std::move(policy), device);
}

}  // namespace shallowpi
