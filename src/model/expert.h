// The action expert: a second Gemma stack whose tokens attend to the prefix,
// layer by layer, and to each other.
#pragma once

#include <string>
#include <vector>

#include "model/ops.h"
#include "model/parameters.h"
#include "shallowpi/model/policy.h"

namespace shallowpi {

/// What the flow time gives: computed for one t, or for all steps of a sampler at
/// once. D is 1 or the horizon.
struct TimeConditioning {
  /// pi0: what the embedding of t adds to the hidden layer of the action-time MLP, [..., D, W].
  Tensor hidden;
  /// pi0.5: per layer scale, shift and gate of the attention, then of the MLP, [..., D, 6W].
  TensorList modulations;
  /// pi0.5: scale, shift and (unused) gate of the final norm, [..., D, 3W].
  Tensor final_modulation;

  /// Step k of conditioning over [steps, 1, ...], as [1, 1, ...].
  TimeConditioning step(std::int64_t k) const;
  /// `other` where `mask_bh1`, else this; both [B or 1, 1, ...] -> [B, H, ...].
  TimeConditioning blend(const Tensor& mask_bh1, const TimeConditioning& other) const;
};

struct StepConditioning {
  std::vector<TimeConditioning> steps;  ///< of t = 1 - k / steps
  TimeConditioning given;               ///< of t = 0
};

/// What all layers share for one cache and number of draws.
struct SuffixContext {
  std::int64_t batch = 0;  ///< B, rows of the cache; x_t has B*R
  Rotation rotation;       ///< [B, R*S] positions
  bool fused = false;      ///< whether fused::attention does it, which needs no mask
  Tensor mask;             ///< additive [B or 1, R*S*N or 1, P + R*S]; undefined where everything is attended
  Tensor lengths_b;        ///< int64, the valid prefix keys; undefined where all are
  bool state_alone = false;  ///< the first token is pi0's state, which sees no action
};

struct ExpertLayer {
  Tensor input_norm, post_norm;        ///< pi0
  Tensor modulation, modulation_bias;  ///< pi0.5: adaRMS dense layers of both norms
  Tensor qkv, o, gate_up, down;
  std::int64_t heads = 0;

  ExpertLayer(ParameterStore& store, const GemmaConfig& config, PolicyKind kind, std::int64_t index);
  struct Output {
    Residual next;
    Tensor q_bsnk;  ///< [B, R*S, N, K] after RoPE
  };
  /// The stream is [B*R, S, W], the prefix's keys and values [B, P, K], pi0.5's modulation [.., D, 6W].
  Output forward(const Residual& stream, const Tensor& prefix_k, const Tensor& prefix_v,
                 const Tensor& modulation_bd, const SuffixContext& context) const;
  TensorList parameters() const { return {input_norm, post_norm, qkv, o, gate_up, down}; }
};

class ActionExpert {
 public:
  ActionExpert(ParameterStore& store, const PolicyConfig& config);

  /// For t [..., D] in [0, 1].
  TimeConditioning condition(const Tensor& t) const;
  /// For `draws` suffixes of `horizon` actions per cache row.
  SuffixContext prepare(const PrefixCache& cache, std::int64_t draws, std::int64_t horizon) const;
  /// Flow velocity float32 [B*R, H, A].
  Tensor velocity(const PrefixCache& cache, const Tensor& state_bd, const Tensor& x_t,
                  const TimeConditioning& time, const SuffixContext& context, AttentionTap* tap,
                  bool recompute) const;

 private:
  std::int64_t state_tokens() const { return kind_ == PolicyKind::kPi0 ? 1 : 0; }
  /// Suffix embeddings [B*R, S, W] in float32.
  Tensor embed(const Tensor& state_bd, const Tensor& x_t, const TimeConditioning& time,
               std::int64_t draws) const;
  /// Which of a cache row's R*S suffix tokens attend to which, bool [R*S, R*S].
  Tensor suffix_attention(std::int64_t draws, std::int64_t tokens, torch::Device device) const;

  PolicyKind kind_;
  GemmaConfig config_;
  torch::Dtype dtype_;
  Tensor action_in_, action_in_bias_, action_out_, action_out_bias_;
  Tensor time_in_, time_in_bias_, time_out_, time_out_bias_;  ///< action_time_mlp of pi0, time_mlp of pi0.5
  Tensor state_, state_bias_;                                 ///< pi0
  std::vector<ExpertLayer> layers_;
  Tensor final_norm_;                                ///< pi0
  Tensor final_modulation_, final_modulation_bias_;  ///< pi0.5
};

}  // namespace shallowpi
