#include "distill/optimizer.h"

#include <torch/torch.h>

namespace shallowpi {

AdamW::AdamW(const OptimizerConfig& config, const torch::Tensor& master)
    : first_moment(torch::zeros_like(master)), second_moment(torch::zeros_like(master)), config_(config) {}

void AdamW::step(torch::Tensor master, const torch::Tensor& gradient, double learning_rate) {
  ++updates;
  if (master.numel() == 0) return;
  const auto count = torch::full({}, static_cast<double>(updates), master.options());
  at::_fused_adamw_({master}, {gradient}, {first_moment}, {second_moment}, /*max_exp_avg_sqs=*/{}, {count},
                    learning_rate, config_.beta1, config_.beta2, config_.weight_decay, config_.eps,
                    /*amsgrad=*/false, /*maximize=*/false);
}

void clip_gradient(torch::Tensor gradient, double norm, double max_norm) {
  const double scale = max_norm / (norm + 1e-6);
  if (max_norm > 0 && scale < 1) gradient.mul_(scale);
}

void update_ema(torch::Tensor ema, const torch::Tensor& master, double decay) {
  ema.lerp_(master, 1 - decay);
}

}  // namespace shallowpi
