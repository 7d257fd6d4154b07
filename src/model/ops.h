// The operations that vision tower, backbone and action expert are made of.
#pragma once

#include <torch/torch.h>

#include <functional>
#include <vector>

#include "model/attention_mask.h"

namespace shallowpi {

using torch::Tensor;
using TensorList = std::vector<Tensor>;

/// What a norm multiplies and adds, float32, broadcast to x: n * (1 + scale) + shift for
/// n = x * rsqrt(mean(x^2) + 1e-6) over the last dim. Gemma's RMSNorm has a stored weight as its scale and no
/// shift; adaRMSNorm has both from the flow time.
struct NormFactors {
  Tensor scale, shift{};
};

/// A residual stream [B, S, W], and what is still to be added to it: the next norm does that in its own pass.
struct Residual {
  Tensor x;
  Tensor update{};  ///< from `project`; undefined: none
  Tensor gate{};    ///< times the update; undefined: 1
  /// x + gate * update.
  Tensor sum() const;
};
/// The sum of a stream and its norm.
struct Normed {
  Tensor sum, normed;
};
Normed norm(const Residual& stream, const NormFactors& factors, torch::Dtype result);
/// LayerNorm over the last dimension, in float32 whatever the dtype.
Normed layer_norm(const Residual& stream, const Tensor& weight, const Tensor& bias);

/// x weight^T: [B, S, I] -> [B, S, O]. On a GPU a product of few rows may come as float32 [parts, B, S, O],
/// whose sum it is: Residual and split_and_rotate take both.
Tensor project(const Tensor& x, const Tensor& weight);

/// gelu(x weight^T + bias) by the tanh approximation.
Tensor linear_gelu(const Tensor& x, const Tensor& weight, const Tensor& bias);

/// down(gelu(gate(x)) * up(x)) with gate and up stacked in one weight [2M, W].
/// x [B, S, W]; the result is project's.
Tensor gated_mlp(const Tensor& x, const Tensor& gate_up, const Tensor& down);

/// Rotary position embedding of base 10000 for integer positions [...]:
/// the factors of a head of width `head_dim`.
struct Rotation {
  Tensor cos;  ///< float32 [..., head_dim]; both halves are equal
  Tensor sin;  ///< float32 [..., head_dim / 2]
};
Rotation rotation(const Tensor& positions, std::int64_t head_dim);

/// What one fused projection gives: heads query heads, one key head, one value head.
struct Heads {
  Tensor q_bsnk;  ///< rotated, contiguous; undefined for 0 query heads
  Tensor k_bsk;   ///< rotated
  Tensor v_bsk;
};
/// Splits project's `qkv` [B, S, (heads + 2) K] and rotates q and k (split halves, as Gemma does), in dtype
/// `result`. `rotation` is for [S] or [B, S] positions.
Heads split_and_rotate(const Tensor& qkv, const Rotation& rotation, std::int64_t heads, torch::Dtype result);

/// Multi-query attention softmax(q k^T / sqrt(K) + mask) v. All query heads share one key and value head, so
/// heads are just more query rows: q [B, M, K], k and v [B, P, K]; `mask` is additive, broadcasts to [B, M,
/// P] and may be undefined. Returns [B, M, K]; the softmax is float32, except for bfloat16
/// on a CPU, where it is bfloat16.
Tensor multi_query_attention(const Tensor& q, const Tensor& k, const Tensor& v, const Tensor& mask);

/// Activation checkpointing: runs `layer` on `activations` without recording it, and records it again in
/// the backward pass. `layer` must read nothing that may need a gradient but `activations` and `parameters`:
/// a tensor that it captured otherwise would silently lose its gradient. Parameters are leaves;
/// undefined ones are skipped.
TensorList recompute_in_backward(std::function<TensorList(const TensorList&)> layer,
                                 const TensorList& activations, const TensorList& parameters);

}  // namespace shallowpi
