// The operations that vision tower, backbone and action expert are made of.
#pragma once

#include <torch/torch.h>

#include <functional>
#include <vector>

#include "shallowpi/model/attention_mask.h"

namespace shallowpi {

using torch::Tensor;
using TensorList = std::vector<Tensor>;

/// x * rsqrt(mean(x^2) + 1e-6) over the last dim, always computed and returned in float32.
Tensor rms_normalize(const Tensor& x);

/// What a norm multiplies and adds, float32, broadcast to x: rms_normalize(x) * (1 + scale) + shift. Gemma's
/// RMSNorm has a stored weight as its scale and no shift; adaRMSNorm has both from the flow time.
struct NormFactors {
  Tensor scale, shift{};
};
Tensor norm(const Tensor& x, const NormFactors& factors, torch::Dtype result);

/// x + gate * update (no gate: x + update), in float32.
Tensor add_update(const Tensor& x, const Tensor& update, const Tensor& gate);
/// That sum and its norm.
struct Normed {
  Tensor sum, normed;
};
Normed add_and_norm(const Tensor& x, const Tensor& update, const Tensor& gate, const NormFactors& factors,
                    torch::Dtype result);

/// gelu(x weight^T + bias) by the tanh approximation.
Tensor linear_gelu(const Tensor& x, const Tensor& weight, const Tensor& bias);

/// down(gelu(gate(x)) * up(x)) with gate and up stacked in one weight [2M, W]. x [rows, W].
Tensor gated_mlp(const Tensor& x, const Tensor& gate_up, const Tensor& down);

/// Rotary position embedding of base 10000 for integer positions [...]: the factors of a head of width
/// `head_dim`.
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
/// Splits the projection `qkv` [B, S, (heads + 2) K] and rotates q and k (split halves, as Gemma does).
/// `rotation` is for [S] or [B, S] positions.
Heads split_and_rotate(const Tensor& qkv, const Rotation& rotation, std::int64_t heads);

/// Multi-query attention softmax(q k^T / sqrt(K) + mask) v. All query heads share one key and value head, so
/// heads are just more query rows: q [B, M, K], k and v [B, P, K]; `mask` is additive, broadcasts to [B, M,
/// P] and may be undefined. Returns [B, M, K]; the softmax is float32.
Tensor multi_query_attention(const Tensor& q, const Tensor& k, const Tensor& v, const Tensor& mask);

/// Activation checkpointing: runs `layer` on `activations` without recording it, and records it again in the
/// backward pass. `layer` must read nothing that may need a gradient but `activations` and `parameters`: a
/// tensor that it captured otherwise would silently lose its gradient. Parameters are leaves; undefined ones
/// are skipped.
TensorList recompute_in_backward(std::function<TensorList(const TensorList&)> layer,
                                 const TensorList& activations, const TensorList& parameters);

}  // namespace shallowpi
