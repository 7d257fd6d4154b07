// AdamW with decoupled weight decay, global-norm clipping and the moving average, each on one flat vector of
// float32 (flat_parameters.h).
#pragma once

#include <torch/types.h>

#include <cstdint>

#include "shallowpi/distill/config.h"

namespace shallowpi {

/// PyTorch's AdamW: w *= 1 - lr * weight_decay, then w -= lr * m_hat / (sqrt(v_hat) + eps).
class AdamW {
 public:
  /// Moments like `master` (float32 [N]), zero.
  AdamW(const OptimizerConfig& config, const torch::Tensor& master);

  /// One update of `master` in place; both float32 [N].
  void step(torch::Tensor master, const torch::Tensor& gradient, double learning_rate);

  torch::Tensor first_moment, second_moment;  ///< float32 [N]
  std::int64_t updates = 0;  ///< steps taken, for the bias correction; skipped steps do not count

 private:
  OptimizerConfig config_;
};

/// Scales `gradient` in place so that its norm is at most `max_norm` (PyTorch's clip_grad_norm_, with its
/// 1e-6). `norm` is the gradient's 2-norm; `max_norm` 0 switches clipping off.
void clip_gradient(torch::Tensor gradient, double norm, double max_norm);

/// openpi's constant-decay average: ema = decay * ema + (1 - decay) * master, in place.
void update_ema(torch::Tensor ema, const torch::Tensor& master, double decay);

}  // namespace shallowpi
