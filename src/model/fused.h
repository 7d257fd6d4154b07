// Operations that are one pass over memory on a GPU where LibTorch's operators need several.
// They equal those operators within the rounding of the dtype, keep nothing for a backward pass,
// and need a program built with CUDA. ops.h and the layers choose between the two;
// on CPUs, and where gradients are recorded, they take the operators.
#pragma once

#include "model/ops.h"

namespace shallowpi::fused {

/// Whether fused operations can take `x`: no gradients are recorded, x is float32 or bfloat16 on a GPU of
/// compute capability 8 or more, its last dimension is a multiple of 8,
/// and set_enabled did not switch them off.
bool usable(const Tensor& x);
/// For comparisons. On at the start.
void set_enabled(bool enabled);

/// As ops.h's. The update may be [parts, B, S, W], to be summed first; x and the factors are float32.
Normed rms_norm(const Residual& stream, const NormFactors& factors, torch::Dtype result);
/// As ops.h's; everything in one dtype, no gate.
Normed layer_norm(const Residual& stream, const Tensor& weight, const Tensor& bias);

/// As ops.h's. `qkv` is [B, S, ..], or float32 [parts, B, S, ..] to be summed; `result` is the dtype of the
/// heads.
Heads split_and_rotate(const Tensor& qkv, const Rotation& rotation, std::int64_t heads, torch::Dtype result);

/// gelu(gate) * up: [..., 2M] -> [..., M].
Tensor gate(const Tensor& gate_up);

/// Whether x weight^T has so few rows that these kernels beat the library's; both bfloat16.
bool can_project(const Tensor& x, const Tensor& weight);
bool can_project_and_gate(const Tensor& x, const Tensor& gate_up);
/// x [B, S, I], weight [O, I] -> float32 [parts, B, S, O]: what the next operation has to sum.
Tensor project(const Tensor& x, const Tensor& weight);
/// gelu(gate) * up of the product with gate_up [2M, I]: [B, S, M] bfloat16.
Tensor project_and_gate(const Tensor& x, const Tensor& gate_up);

// The products of a layer with few rows and what surrounds them, a kernel each. Together with `attention`
// they are an expert layer. Weights are bfloat16, streams and norm factors float32 as for rms_norm.

/// Whether the device has the clusters that they need, and the sizes suit them; x is the stream [B, S, W], of
/// at most 16 rows.
bool can_run_layer(const Tensor& x, const Tensor& qkv, const Tensor& o, const Tensor& gate_up,
                   const Tensor& down, std::int64_t head_dim);
/// What split_and_rotate makes of the norm's product with qkv, in bfloat16.
Heads norm_project_and_rotate(const Tensor& x, const NormFactors& factors, const Tensor& qkv,
                              const Rotation& rotation, std::int64_t heads);
/// project_and_gate of the norm.
Tensor norm_project_and_gate(const Tensor& x, const NormFactors& factors, const Tensor& gate_up);
/// x + gate * (y weight^T), float32; y [B, S, I] is bfloat16, the gate optional.
Tensor project_and_add(const Tensor& y, const Tensor& weight, const Tensor& x, const Tensor& gate);

/// Multi-query attention of `heads` query rows per token to the first `lengths_b` prefix keys and, where
/// given, to the tokens' own keys. Contiguous bfloat16 of one batch and K.
struct AttentionInput {
  const Tensor& q_bmk;  ///< [B, S * heads, K]
  std::int64_t heads;
  const Tensor &prefix_k_bpk, &prefix_v_bpk;
  Tensor lengths_b{};  ///< int64; undefined: all of them
  Tensor own_k_bsk{}, own_v_bsk{};
  bool first_token_alone = false;  ///< the first token sees of its own tokens only itself (pi0's state)
};
/// Whether `attention` takes queries and keys like `x`, of which bfloat16 and the device count, with heads of
/// this width: 16, 32, 64, 72, 128 or 256.
bool has_attention(const Tensor& x, std::int64_t head_dim);
/// Returns [B, S * heads, K]. Where own keys are given, the prefix's and `lengths_b` must not come from the
/// kernel just before.
Tensor attention(const AttentionInput& input);

/// All tokens to all, each head with its own keys, as SigLIP has it: contiguous bfloat16
/// qkv [m, T, 3 * heads * K] -> [m, T, heads * K].
bool can_self_attend(const Tensor& qkv, std::int64_t heads);
Tensor self_attention(const Tensor& qkv, std::int64_t heads);

}  // namespace shallowpi::fused
