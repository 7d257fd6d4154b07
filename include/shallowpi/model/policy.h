// A pi0 / pi0.5 policy: a SigLIP + Gemma backbone that encodes the observation once, and an action expert
// that attends to it layer by layer and returns a flow velocity.
//
// Flow convention (openpi's): t = 1 is noise, t = 0 is data; x_t = t * noise + (1 - t) * actions; the network
// predicts v = noise - actions. The paper's tau is 1 - t and its velocity is -v.
//
// Vision-language tokens never attend to action tokens, so training and inference are the same two calls:
//   PrefixCache cache = policy->encode(observation);            // vision tower, backbone -> K, V per layer
//   Tensor v_bhd = policy->velocity(cache, state, x_t, t);      // the expert against that cache
//
// Shape suffixes: see shallowpi/base/observation.h.
#pragma once

#include <torch/torch.h>

#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "shallowpi/base/observation.h"
#include "shallowpi/base/policy_spec.h"
#include "shallowpi/model/config.h"

namespace shallowpi {

/// What the expert needs of an observation. Masked cameras and padded prompt tokens are not in it: each
/// sample's valid tokens come first, P is the longest sample's count (or that of a fixed layout), and the
/// rest of a row is finite and masked.
struct PrefixCache {
  std::vector<torch::Tensor> keys_bpk;    ///< per layer [B, P, K] after RoPE (one KV head)
  std::vector<torch::Tensor> values_bpk;  ///< per layer [B, P, K]
  torch::Tensor mask_bp;                  ///< bool [B, P]
  torch::Tensor lengths_b;  ///< int64 [B], valid tokens per sample = position of the first suffix token
  bool ragged = false;      ///< whether a length may differ from P, so that rows are padded
};

/// Where the tokens of an observation go in the prefix, from PolicyImpl::layout or fixed_layout.
struct PrefixLayout {
  std::vector<std::vector<std::int64_t>> camera_samples;  ///< per camera, the samples that are embedded
  torch::Tensor prompt_positions;  ///< int64 [n] positions within tokens_bt, flattened, that are embedded
  /// int64 [m*T + n] row within [B*P] of every image token (camera-major), then of every prompt token
  torch::Tensor destinations;
  torch::Tensor lengths_b;     ///< int64 [B] valid tokens per sample
  std::int64_t length = 0;     ///< P
  bool ragged = false;         ///< whether the lengths differ from P
  bool holds_invalid = false;  ///< masked images and padding are embedded too, behind the valid tokens
};

/// Collects, for one layer, what the attention loss needs. Give it to `velocity` (action queries) and, for
/// the ablation over all tokens, to `encode` too (backbone queries).
struct AttentionTap {
  std::int64_t layer = 0;
  bool backbone_queries = false;        ///< set to have `encode` fill prefix_queries
  torch::Tensor action_queries_bnhk{};  ///< [B*R, N, H, K] after RoPE; pi0's state token is not among them
  torch::Tensor prefix_queries_bnpk{};  ///< [B, N, P, K] after RoPE
  torch::Tensor prefix_keys_bpk{};      ///< [B, P, K] after RoPE
  torch::Tensor mask_bp{};              ///< bool [B, P] valid prefix keys
  /// Where given, the residual stream is added to it, float32: the input of each layer, [B, P, W] in `encode`
  /// and [B*R, S, W] in `velocity` (pi0's state token first), and in `velocity` the last layer's output.
  std::vector<torch::Tensor>* layer_inputs = nullptr;
};

/// The expert's conditioning on the flow times of a sampler: it depends on the weights and the number of
/// steps alone. Opaque; made by PolicyImpl::step_conditioning.
struct StepConditioning;

/// What else a sampler can be given.
struct SampleOptions {
  /// Reused from call to call while the weights stay as they are; empty: computed anew.
  std::shared_ptr<const StepConditioning> conditioning;
  /// float32 [B, H, A]; where `given_mask_bh` (bool [B, H]) is true, these actions are held at t = 0 through
  /// all steps and the others are sampled around them (real-time chunking, trained with such prefixes).
  torch::Tensor given_bhd, given_mask_bh;
  std::function<void()> after_step;  ///< called after every Euler step
};

/// Options that change speed or memory, never the result.
struct PolicyOptions {
  bool activation_checkpointing = false;  ///< recompute each layer in the backward pass
};

/// One of openpi's tensors: rows [begin, begin + rows) of a parameter.
struct ParameterPart {
  std::string name;  ///< openpi's
  std::int64_t begin = 0, rows = 0;
};

/// One parameter of the module. Tensors that are applied together are stored as one: q, k and v of a layer,
/// its gate and up, the two adaRMS dense layers of an expert layer. What belongs to a parameter element by
/// element (gradient, moments, EMA) has the same parts. A parameter is trained or frozen as a whole.
struct ParameterGroup {
  torch::Tensor parameter;           ///< a leaf
  std::vector<ParameterPart> parts;  ///< stacked along dim 0, without gaps
  bool dead = false;                 ///< no output depends on it; created without requires_grad
  bool keep_float32 = false;         ///< float32 also in a bfloat16 policy
};

/// `whole` (of the shape of group.parameter) by openpi's names:
/// slices that alias it, without gradient history.
std::map<std::string, torch::Tensor> split_parts(const ParameterGroup& group, const torch::Tensor& whole);

/// The const members may run in several threads at once while nobody changes the weights.
class PolicyImpl : public torch::nn::Module {
 public:
  /// Parameters are created uninitialised on `device`: load them (model/checkpoint.h) or call initialize().
  /// With `dtype` bfloat16 the tensors marked keep_float32 stay float32.
  PolicyImpl(const PolicyConfig& config, torch::Dtype dtype = torch::kFloat32,
             torch::Device device = torch::kCPU, PolicyOptions options = {});

  const PolicyConfig& config() const { return config_; }

  /// Random weights for training from scratch: scaled normal for matrices,
  /// identity for norms, zero for adaRMS dense.
  void initialize(std::uint64_t seed);

  /// Vision tower and projector, only on the (sample, camera) pairs that exist. Returns [M, T, W] image
  /// tokens for the M existing pairs, camera-major (all samples of camera 0, then of camera 1, ...).
  torch::Tensor embed_images(const Observation& observation) const;
  /// The same, of an observation whose layout() is known.
  torch::Tensor embed_images(const Observation& observation, const PrefixLayout& layout) const;

  /// Runs the backbone. `image_tokens` takes the result of embed_images, also of another policy with a
  /// bit-equal tower and projector (the seam for a shared frozen tower). Throws UsageError for an observation
  /// without any token, or whose images have another size than config().vision.image_size.
  PrefixCache encode(const Observation& observation, AttentionTap* tap = nullptr,
                     const torch::Tensor& image_tokens = {}) const;

  /// Where the observation's valid tokens go, with P of the longest sample. Works on the host: masks are
  /// copied there. The layout is on the observation's device. Throws UsageError for a sample without any
  /// token, for masks of the wrong shape and for prompt ids outside the vocabulary.
  PrefixLayout layout(const Observation& observation) const;
  /// The same with shapes that depend on the observation's shapes alone: P is every camera and the whole
  /// padded prompt.
  PrefixLayout fixed_layout(const Observation& observation) const;
  /// `encode` with a layout made before, on the observation's device: launches device work only.
  PrefixCache encode(const Observation& observation, const PrefixLayout& layout, AttentionTap* tap = nullptr,
                     const torch::Tensor& image_tokens = {}) const;

  /// Flow velocity float32 [B*R, H, A] at x_t [B*R, H, A], state [B, A], t [B*R]. One cache row serves R
  /// consecutive rows of x_t (R flow draws per observation; R = 1 at inference): row b*R + r belongs to
  /// sample b. Where `given_mask_bh` (bool [B*R, H]), x_t holds an action as it is, at t = 0. Throws
  /// UsageError for another policy's cache, for x_t of another shape and, of a pi0 policy, for a state that
  /// is missing or has another shape.
  torch::Tensor velocity(const PrefixCache& cache, const torch::Tensor& state_bd, const torch::Tensor& x_t,
                         const torch::Tensor& t, AttentionTap* tap = nullptr,
                         const torch::Tensor& given_mask_bh = {}) const;

  /// `steps` Euler steps from `noise_bhd` [B, H, A] at t = 1 - k/steps. Returns float32 [B, H, A] normalised
  /// actions. Throws UsageError as encode and velocity do, and for steps < 1.
  torch::Tensor sample_actions(const Observation& observation, const torch::Tensor& noise_bhd,
                               std::int64_t steps = kEulerSteps) const;
  torch::Tensor sample_actions(const PrefixCache& cache, const torch::Tensor& state_bd,
                               const torch::Tensor& noise_bhd, std::int64_t steps = kEulerSteps,
                               const SampleOptions& options = {}) const;
  /// For SampleOptions: what `steps` steps need of the flow time, from the weights as they are now. Throws
  /// UsageError for steps < 1.
  std::shared_ptr<const StepConditioning> step_conditioning(std::int64_t steps) const;

  /// Prefix embeddings [B, cameras*T + prompt, W] in the full padded layout (masked cameras and padding
  /// embedded too), as LeRobot's embed_prefix returns them; for comparison and inspection only.
  torch::Tensor full_prefix_embeddings(const Observation& observation) const;

  /// Parameters under openpi's tensor names (the tied pair as embed_tokens), dead ones included only where
  /// `with_dead`. The tensors alias the module's parameters. Dead tensors that no module holds (the expert's
  /// lm_head) are never here; checkpoints copy them from file to file.
  std::map<std::string, torch::Tensor> named_tensors(bool with_dead = true) const;

  /// All parameters, dead ones included, in a fixed order.
  const std::vector<ParameterGroup>& parameter_groups() const;

 private:
  struct Parts;
  /// Pixels of the existing (sample, camera) pairs, or of all of them, through tower and projector.
  torch::Tensor embed_cameras(const Observation& observation,
                              const std::vector<std::vector<std::int64_t>>& samples) const;
  bool recomputes() const;

  PolicyConfig config_;
  PolicyOptions options_;
  std::shared_ptr<Parts> parts_;
};
TORCH_MODULE(Policy);

}  // namespace shallowpi
