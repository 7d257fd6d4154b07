#include "eval/frames.h"
#include "shallowpi/base/error.h"
#include "shallowpi/eval/layers.h"

namespace shallowpi {
namespace {

/// Cosine similarity of every pair of states, a mean over tokens: float32 [I] of [S, W] -> float64 [I, I].
torch::Tensor similarity_ii(const std::vector<torch::Tensor>& states_sw) {
  const torch::Tensor states_isw = torch::stack(states_sw).to(torch::kFloat64);
  const torch::Tensor unit_isw = states_isw / states_isw.norm(2, -1, true).clamp_min(1e-30);
  const torch::Tensor flat = unit_isw.flatten(1);
  return torch::mm(flat, flat.t()).div(static_cast<double>(states_isw.size(1))).to(torch::kCPU);
}

/// Sums of the frames' similarities.
class Collector {
 public:
  Collector(Policy& policy, const SamplePipeline& pipeline, const MeasureOptions& options)
      : policy_(policy), pipeline_(pipeline), options_(options) {
    const std::int64_t n = policy->config().depth();
    backbone_ii_ = torch::zeros({n, n}, torch::kFloat64);
    expert_kii_ = torch::zeros({options.steps + 1, n + 1, n + 1}, torch::kFloat64);
  }

  void add(const std::vector<Dataset::Sample>& frames) {
    const TrainingBatch batch = pipeline_.make_batch(frames);
    const Observation observation = batch.observation.to(options_.device);
    std::vector<torch::Tensor> inputs;
    AttentionTap tap;
    tap.layer_inputs = &inputs;
    const PrefixCache cache = policy_->encode(observation, &tap);
    add_frames(inputs, cache.lengths_b.to(torch::kCPU), 0, backbone_ii_);

    torch::Tensor x = sampling_noise(batch.actions_bhd, frames, options_.seed).to(options_.device);
    for (std::int64_t k = 0; k <= options_.steps; ++k) {
      inputs.clear();
      const torch::Tensor t = torch::full({x.size(0)}, 1 - double(k) / double(options_.steps), x.options());
      const torch::Tensor v = policy_->velocity(cache, observation.state_bd, x, t, &tap);
      const std::int64_t state_tokens = inputs[0].size(1) - x.size(1);
      torch::Tensor expert_ii = expert_kii_[k];
      add_frames(inputs, torch::full({x.size(0)}, x.size(1)), state_tokens, expert_ii);
      x = x - v / double(options_.steps);
    }
    frames_ += static_cast<double>(frames.size());
  }

  LayerSimilarity mean() const { return {backbone_ii_ / frames_, expert_kii_ / frames_}; }

 private:
  /// The `lengths_b` tokens from `first` of each frame.
  static void add_frames(const std::vector<torch::Tensor>& inputs_bsw, const torch::Tensor& lengths_b,
                         std::int64_t first, torch::Tensor& sum_ii) {
    for (std::int64_t b = 0; b < lengths_b.size(0); ++b) {
      std::vector<torch::Tensor> states_sw;
      for (const torch::Tensor& input : inputs_bsw)
        states_sw.push_back(input[b].narrow(0, first, lengths_b[b].item<std::int64_t>()));
      sum_ii += similarity_ii(states_sw);
    }
  }

  Policy& policy_;
  const SamplePipeline& pipeline_;
  const MeasureOptions& options_;
  torch::Tensor backbone_ii_, expert_kii_;
  double frames_ = 0;
};

}  // namespace

std::optional<double> LayerSimilarity::backbone(std::int64_t layer) const {
  if (layer + 1 >= layers()) return std::nullopt;
  return backbone_ii[layer][layer + 1].item<double>();
}

double LayerSimilarity::expert(std::int64_t layer, std::int64_t step) const {
  return expert_kii[step][layer][layer + 1].item<double>();
}

double LayerSimilarity::expert(std::int64_t layer) const {
  double sum = 0;
  for (std::int64_t k = 0; k < steps(); ++k) sum += expert(layer, k);
  return sum / static_cast<double>(steps());
}

double LayerSimilarity::both(std::int64_t layer) const {
  const std::optional<double> of_backbone = backbone(layer);
  return of_backbone ? (*of_backbone + expert(layer)) / 2 : expert(layer);
}

LayerSimilarity layer_similarity(Policy& policy, const SamplePipeline& pipeline,
                                 const std::vector<Dataset::Sample>& samples, const MeasureOptions& options) {
  if (samples.empty()) throw UsageError("there is no frame to measure on");
  torch::InferenceMode guard;
  Collector collector(policy, pipeline, options);
  const auto total = static_cast<std::int64_t>(samples.size());
  std::int64_t done = 0;
  for (const std::vector<Dataset::Sample>& frames : batches_of(samples, options.batch_size)) {
    collector.add(frames);
    done += static_cast<std::int64_t>(frames.size());
    if (options.progress) options.progress(done, total);
  }
  return collector.mean();
}

}  // namespace shallowpi
