// Flow-matching draws. Every draw is a function of (seed, step), so that a resumed run repeats them exactly.
#pragma once

#include <torch/types.h>

#include <functional>

#include "shallowpi/distill/config.h"

namespace shallowpi {

/// R draws for each of B samples, rows ordered b*R + r.
struct FlowDraw {
  torch::Tensor noise;   ///< float32 [B*R, H, A] ~ N(0, 1)
  torch::Tensor t;       ///< float32 [B*R] in (0.001, 1], t = 1 is noise
  torch::Tensor x_t;     ///< t * noise + (1 - t) * actions; the actions where they are given
  torch::Tensor target;  ///< noise - actions
  /// bool [B*R, H]: these actions are given, at t = 0, and nothing is learnt of them; undefined: none.
  torch::Tensor given_mask_bh{};

  /// `function` of each tensor that is defined.
  FlowDraw map(const std::function<torch::Tensor(const torch::Tensor&)>& function) const;
};

/// t ~ Beta(alpha, beta) * 0.999 + 0.001 (openpi), stratified over the R draws of a sample: draw r takes its
/// quantile from [r/R, (r+1)/R). `seed` names the stream, for instance hash(run seed, step).
/// Training for real-time chunking (LeRobot's name): with a positive `rtc_training_max_delay` half of the
/// draws are given their first 1 to that many actions, all equally often. The other draws stay as they are.
/// Throws UsageError where draws, alpha or beta is not positive, or a chunk could be given whole.
FlowDraw draw_flow(const torch::Tensor& actions_bhd, const FlowConfig& flow, std::uint64_t seed,
                   std::int64_t rtc_training_max_delay = 0);
/// The same x_t and target from noise [B*R, H, A], t [B*R] and mask.
FlowDraw make_flow(const torch::Tensor& actions_bhd, const torch::Tensor& noise, const torch::Tensor& t,
                   const torch::Tensor& given_mask_bh = {});

}  // namespace shallowpi
