// `shallowpi-eval similarity` and `skip`: which layers a policy could do without (the paper's Figures 3 and
// 4). Layers are those of backbone and expert alike, numbered from 0.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "shallowpi/base/enum_names.h"
#include "shallowpi/eval/offline.h"

namespace shallowpi {

/// Mean cosine similarity between hidden states, over tokens, then frames.
struct LayerSimilarity {
  torch::Tensor backbone_ii;  ///< float64 [N, N]: between the inputs of the layers, valid prefix tokens
  /// float64 [steps + 1, N + 1, N + 1]: action tokens at tau = k / steps of the sampler's own path; row N is
  /// the last layer's output. The sampler does not evaluate the last tau, 1.
  torch::Tensor expert_kii;

  std::int64_t layers() const { return backbone_ii.size(0); }
  std::int64_t steps() const { return expert_kii.size(0) - 1; }
  /// Of a layer's input and output. No output of the backbone's last layer is used: nothing there.
  std::optional<double> backbone(std::int64_t layer) const;
  double expert(std::int64_t layer, std::int64_t step) const;
  double expert(std::int64_t layer) const;  ///< mean over the sampler's steps
  /// Mean of backbone and expert; of the last layer the expert's.
  double both(std::int64_t layer) const;
};

/// Reads options.steps, seed, batch_size, device and progress. Throws UsageError where there is no sample.
LayerSimilarity layer_similarity(Policy& policy, const SamplePipeline& pipeline,
                                 const std::vector<Dataset::Sample>& samples, const MeasureOptions& options);

enum class LayerStack { kBoth, kBackbone, kExpert };
template <>
inline constexpr auto kEnumNames<LayerStack> = std::to_array<EnumName<LayerStack>>({
    {LayerStack::kBoth, "both"},
    {LayerStack::kBackbone, "backbone"},
    {LayerStack::kExpert, "expert"},
});

/// While it lives, `layers` of `stack` pass their input on unchanged, exactly: the matrices that lead back to
/// the residual stream are zero. A backbone layer still gives its keys and values, from its unchanged input;
/// with the same layer skipped in the expert nobody reads them, so that `both` equals removing the layer.
class SkippedLayers {
 public:
  SkippedLayers(Policy& policy, const std::vector<std::int64_t>& layers, LayerStack stack);
  ~SkippedLayers();
  SkippedLayers(const SkippedLayers&) = delete;
  SkippedLayers& operator=(const SkippedLayers&) = delete;

 private:
  std::vector<std::pair<torch::Tensor, torch::Tensor>> saved_;  // parameter, its values
};

/// What skipping layers does to the policy's output; both over the robot's real dims, normalised.
struct SkipError {
  double velocity = 0;  ///< squared difference to the whole policy's velocity, over flow draws
  double action = 0;    ///< mean absolute error of the sampled chunk against the demonstration
};

/// A policy with prepared frames, to measure many selections of its layers: they are switched off in place,
/// and images go through the vision tower once.
class SkipStudy {
 public:
  SkipStudy(Policy policy, const SamplePipeline& pipeline, const std::vector<Dataset::Sample>& samples,
            const MeasureOptions& options);
  SkipError measure(const std::vector<std::int64_t>& skipped, LayerStack stack = LayerStack::kBoth);
  std::int64_t layers() const { return policy_->config().depth(); }

 private:
  struct Batch {
    Observation observation;
    torch::Tensor image_tokens, actions_bhd, noise_bhd, x_t, t, velocity_bhd;
  };
  Policy policy_;
  std::int64_t real_dims_, steps_;
  std::vector<Batch> batches_;
};

enum class SkipMetric { kVelocity, kAction };
template <>
inline constexpr auto kEnumNames<SkipMetric> = std::to_array<EnumName<SkipMetric>>({
    {SkipMetric::kVelocity, "velocity"},
    {SkipMetric::kAction, "action"},
});

/// Indices of `values`, least first; equal values in their order.
std::vector<std::int64_t> least_first(const std::vector<double>& values);
/// The layers 0 .. total - 1 without the first total - keep of `order`.
std::vector<std::int64_t> kept_after(const std::vector<std::int64_t>& order, std::int64_t total,
                                     std::int64_t keep);

struct LayerStudyOptions {
  OfflineOptions offline;  ///< one checkpoint, no teacher; data, frames, draws, steps, out
  std::int64_t keep = 6;   ///< layers to keep
  SkipMetric rank_by = SkipMetric::kVelocity;
  bool greedy = true;  ///< also remove one by one, measuring all that remain each time
  bool json = false;   ///< JSON on stdout instead of tables
};

/// Print tables or JSON, and write `offline.out`. Throw UsageError where the options do not fit, CorruptError
/// where the policy's outputs are not finite.
void run_similarity(const LayerStudyOptions& options);
void run_skip(const LayerStudyOptions& options);

}  // namespace shallowpi
