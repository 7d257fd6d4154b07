// Operations that are one pass over memory on a GPU where LibTorch's operators need several. They equal those
// operators within the rounding of the dtype, keep nothing for a backward pass, and need a program built with
// CUDA. ops.h and the layers choose between the two; on CPUs and in training they take the operators.
#pragma once

#include <torch/torch.h>

namespace shallowpi::fused {

using torch::Tensor;

/// Can fused operations take `x`: no gradients are recorded, x is on a GPU and is float32 or bfloat16, its last
/// dimension is a multiple of 8, and set_enabled did not switch them off?
bool usable(const Tensor& x);
/// For comparisons. On at the start.
void set_enabled(bool enabled);

/// What a norm reads and how: the residual stream x [B, S, W] float32, an update to it that is still to be added
/// (optional, [B, S, W]), times a gate (optional). Norm: rms_normalize(sum) * (1 + scale) + shift (optional).
/// Scale, shift and gate are float32 and broadcast to x.
struct NormInput {
  const Tensor &x, &scale;
  Tensor shift{}, update{}, gate{};
};
struct Normalized {
  Tensor sum;     ///< float32: x + gate * update
  Tensor result;  ///< of the dtype that was asked for
};
Normalized normalize(const NormInput& input, torch::Dtype result);

/// As ops.h's split_and_rotate. The buffers of the key and the value hold whole tiles of 16 tokens; the rest is
/// zeros, as `attention` wants it.
std::tuple<Tensor, Tensor, Tensor> split_and_rotate(const Tensor& qkv_bsd, const Tensor& cos, const Tensor& sin,
                                                    std::int64_t heads);

/// gelu(gate) * up: [..., 2M] -> [..., M].
Tensor gate(const Tensor& gate_up);

/// Multi-query attention of `heads` query rows per token to the first `lengths_b` prefix keys and, where given,
/// to the tokens' own keys.
struct AttentionInput {
  const Tensor& q_bmk;  ///< bfloat16 [B, S * heads, K]
  std::int64_t heads;
  const Tensor &prefix_k_bpk, &prefix_v_bpk;  ///< from split_and_rotate
  Tensor lengths_b{};                         ///< int64; undefined: all of them
  Tensor own_k_bsk{}, own_v_bsk{};            ///< from split_and_rotate
  bool first_token_alone = false;  ///< the first token sees of its own tokens only itself (pi0's state)
};
/// Whether `attention` can take it: bfloat16, K a multiple of 16, not more keys than shared memory holds.
bool can_attend(const AttentionInput& input);
/// Returns [B, S * heads, K].
Tensor attention(const AttentionInput& input);

}  // namespace shallowpi::fused
