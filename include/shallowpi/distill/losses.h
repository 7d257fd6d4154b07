// The three losses of Shallow-pi, each as a sum and a count: weighted and divided once, logged unweighted.
#pragma once

#include <torch/types.h>

#include "shallowpi/model/policy.h"

namespace shallowpi {

/// A mean that is not divided yet, so that micro-batches can be added up exactly.
struct LossSum {
  torch::Tensor sum;  ///< scalar, float32, with gradient
  double count = 0;
  torch::Tensor mean() const { return sum / count; }
};

/// L_task and L_kd (paper equations 1 and 2): squared error over [B, H, :dims]. `dims` is 32 (openpi), or the
/// number of the robot's own. Where `skipped` (bool, broadcast to [B, H]), the error counts as 0: in the sum,
/// not in the count, so that every action weighs the same in every micro-batch.
LossSum velocity_loss(const torch::Tensor& v_bhd, const torch::Tensor& target_bhd, std::int64_t dims,
                      const torch::Tensor& skipped = {});

/// L_attn (paper equation 3): KL(teacher || student) between softmax(q k^T / sqrt(K)) over the valid prefix
/// tokens, mean over batch, heads and action tokens (with `all_queries` over valid prefix queries too). The
/// teacher's tap carries no gradient. Taps come from the same observations, in the same order. The action
/// queries of the draws in `skipped` (bool [B*R]) count as 0.
LossSum attention_loss(const AttentionTap& teacher, const AttentionTap& student, bool all_queries = false,
                       const torch::Tensor& skipped = {});

}  // namespace shallowpi
