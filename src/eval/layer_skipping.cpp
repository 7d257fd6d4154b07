#include <algorithm>
#include <numeric>

#include "eval/frames.h"
#include "model/tensor_names.h"
#include "shallowpi/base/error.h"
#include "shallowpi/base/text.h"
#include "shallowpi/eval/layers.h"

namespace shallowpi {

SkippedLayers::SkippedLayers(Policy& policy, const std::vector<std::int64_t>& layers, LayerStack stack) {
  torch::NoGradGuard no_grad;
  std::vector<std::string> stacks;
  if (stack != LayerStack::kExpert) stacks.push_back(names::kBackboneLayers);
  if (stack != LayerStack::kBackbone) stacks.push_back(names::kExpertLayers);
  const auto tensors = policy->named_tensors();
  for (const std::string& prefix : stacks)
    for (std::int64_t layer : layers)
      for (const char* matrix : {".self_attn.o_proj.weight", ".mlp.down_proj.weight"}) {
        torch::Tensor parameter = tensors.at(str(prefix, layer, matrix));
        saved_.emplace_back(parameter, parameter.clone());
        parameter.zero_();
      }
}

SkippedLayers::~SkippedLayers() {
  torch::NoGradGuard no_grad;
  for (auto& [parameter, values] : saved_) parameter.copy_(values);
}

SkipStudy::SkipStudy(Policy policy, const SamplePipeline& pipeline,
                     const std::vector<Dataset::Sample>& samples, const MeasureOptions& options)
    : policy_(std::move(policy)), real_dims_(pipeline.spec().robot.action_dim), steps_(options.steps) {
  if (samples.empty()) throw UsageError("there is no frame to measure on");
  torch::InferenceMode guard;
  for (const std::vector<Dataset::Sample>& frames : batches_of(samples, options.batch_size)) {
    const TrainingBatch batch = pipeline.make_batch(frames);
    const FlowDraw draw = draw_for_frames(batch.actions_bhd, frames, options);
    Batch prepared;
    prepared.observation = batch.observation.to(options.device);
    prepared.image_tokens = policy_->embed_images(prepared.observation);
    prepared.actions_bhd = batch.actions_bhd.to(options.device);
    prepared.noise_bhd = sampling_noise(batch.actions_bhd, frames, options.seed).to(options.device);
    prepared.x_t = draw.x_t;
    prepared.t = draw.t;
    const PrefixCache cache = policy_->encode(prepared.observation, nullptr, prepared.image_tokens);
    prepared.velocity_bhd = policy_->velocity(cache, prepared.observation.state_bd, draw.x_t, draw.t);
    batches_.push_back(std::move(prepared));
  }
}

SkipError SkipStudy::measure(const std::vector<std::int64_t>& skipped, LayerStack stack) {
  torch::InferenceMode guard;
  const SkippedLayers skipping(policy_, skipped, stack);
  double velocity = 0, action = 0, velocities = 0, actions = 0;
  for (const Batch& batch : batches_) {
    const torch::Tensor& state_bd = batch.observation.state_bd;
    const PrefixCache cache = policy_->encode(batch.observation, nullptr, batch.image_tokens);
    const torch::Tensor v_bhd = policy_->velocity(cache, state_bd, batch.x_t, batch.t);
    const torch::Tensor squared = (v_bhd - batch.velocity_bhd).square().narrow(2, 0, real_dims_);
    velocity += squared.sum(torch::kFloat64).item<double>();
    velocities += static_cast<double>(squared.numel());
    const torch::Tensor sampled_bhd = policy_->sample_actions(cache, state_bd, batch.noise_bhd, steps_);
    const torch::Tensor absolute = (sampled_bhd - batch.actions_bhd).abs().narrow(2, 0, real_dims_);
    action += absolute.sum(torch::kFloat64).item<double>();
    actions += static_cast<double>(absolute.numel());
  }
  return {velocity / velocities, action / actions};
}

std::vector<std::int64_t> least_first(const std::vector<double>& values) {
  std::vector<std::int64_t> order(values.size());
  std::iota(order.begin(), order.end(), 0);
  const auto value = [&](std::int64_t i) { return values[static_cast<std::size_t>(i)]; };
  std::stable_sort(order.begin(), order.end(), [&](auto a, auto b) { return value(a) < value(b); });
  return order;
}

std::vector<std::int64_t> kept_after(const std::vector<std::int64_t>& order, std::int64_t total,
                                     std::int64_t keep) {
  std::vector<std::int64_t> kept;
  const auto dropped_end = order.begin() + (total - keep);
  for (std::int64_t layer = 0; layer < total; ++layer)
    if (std::find(order.begin(), dropped_end, layer) == dropped_end) kept.push_back(layer);
  return kept;
}

}  // namespace shallowpi
