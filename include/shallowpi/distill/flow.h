// Flow-matching draws. Every draw is a function of (seed, step), so that a resumed run repeats them exactly.
#pragma once

#include <torch/types.h>

#include "shallowpi/distill/config.h"

namespace shallowpi {

/// R draws for each of B samples, rows ordered b*R + r.
struct FlowDraw {
  torch::Tensor noise;   ///< float32 [B*R, H, 32] ~ N(0, 1)
  torch::Tensor t;       ///< float32 [B*R] in (0.001, 1], t = 1 is noise
  torch::Tensor x_t;     ///< t * noise + (1 - t) * actions
  torch::Tensor target;  ///< noise - actions
};

/// t ~ Beta(alpha, beta) * 0.999 + 0.001 (openpi), stratified over the R draws of a sample: draw r takes its
/// quantile from [r/R, (r+1)/R). `seed` names the stream, for instance hash(run seed, step, micro-batch).
/// Throws UsageError where draws, alpha or beta is not positive.
FlowDraw draw_flow(const torch::Tensor& actions_bhd, const FlowConfig& flow, std::uint64_t seed);
/// The same x_t and target from given noise [B*R, H, 32] and t [B*R].
FlowDraw make_flow(const torch::Tensor& actions_bhd, const torch::Tensor& noise, const torch::Tensor& t);

}  // namespace shallowpi
