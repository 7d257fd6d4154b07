#include "shallowpi/distill/losses.h"

#include <cmath>

#include "model/attention_mask.h"

namespace shallowpi {

namespace {

/// log softmax(q k^T / sqrt(K)) over the valid keys, in float32. Rows of q [B, M, K] -> [B, M, P].
torch::Tensor log_attention(const torch::Tensor& q, const torch::Tensor& k_bpk,
                            const torch::Tensor& mask_bp) {
  const double scale = 1 / std::sqrt(static_cast<double>(k_bpk.size(2)));
  const torch::Tensor scores =
      torch::bmm(q.to(torch::kFloat32) * scale, k_bpk.to(torch::kFloat32).transpose(1, 2));
  // Finite where masked: the teacher's probability there is exactly 0, and 0 times infinity would be NaN.
  return torch::log_softmax(scores + additive_mask(mask_bp, torch::kFloat32).unsqueeze(1), -1);
}

/// KL(teacher || student) per query row, [B, M].
torch::Tensor divergence(const AttentionTap& teacher, const torch::Tensor& teacher_q,
                         const AttentionTap& student, const torch::Tensor& student_q) {
  const torch::Tensor log_teacher =
      log_attention(teacher_q.detach(), teacher.prefix_keys_bpk.detach(), teacher.mask_bp).detach();
  const torch::Tensor log_student = log_attention(student_q, student.prefix_keys_bpk, student.mask_bp);
  return torch::kl_div(log_student, log_teacher, at::Reduction::None, /*log_target=*/true).sum(-1);
}

/// Queries [B*R, N, S, K] as rows [B, R*S*N, K] (in that order, which is how they lie in memory).
torch::Tensor as_rows(const torch::Tensor& queries, std::int64_t batch) {
  return queries.transpose(1, 2).reshape({batch, -1, queries.size(3)});
}

void check(const AttentionTap& teacher, const AttentionTap& student) {
  TORCH_CHECK(teacher.action_queries_bnhk.defined() && student.action_queries_bnhk.defined(),
              "the attention loss needs the taps of both policies; is the tap's layer within the policy?");
  TORCH_CHECK(teacher.action_queries_bnhk.sizes() == student.action_queries_bnhk.sizes() &&
                  teacher.mask_bp.sizes() == student.mask_bp.sizes(),
              "the taps come from different observations or heads: teacher ",
              teacher.action_queries_bnhk.sizes(), ", student ", student.action_queries_bnhk.sizes());
}

}  // namespace

LossSum velocity_loss(const torch::Tensor& v_bhd, const torch::Tensor& target_bhd, std::int64_t dims,
                      const torch::Tensor& skipped) {
  TORCH_CHECK(v_bhd.sizes() == target_bhd.sizes() && dims > 0 && dims <= v_bhd.size(2), "velocity ",
              v_bhd.sizes(), " against ", target_bhd.sizes(), " over ", dims, " dims");
  torch::Tensor gap = v_bhd.narrow(2, 0, dims) - target_bhd.narrow(2, 0, dims);
  if (skipped.defined()) gap = gap.masked_fill(skipped.unsqueeze(2), 0);
  return {gap.to(torch::kFloat32).square().sum(), static_cast<double>(gap.numel())};
}

LossSum attention_loss(const AttentionTap& teacher, const AttentionTap& student, bool all_queries,
                       const torch::Tensor& skipped) {
  check(teacher, student);
  const std::int64_t batch = student.mask_bp.size(0);
  torch::Tensor action = divergence(teacher, as_rows(teacher.action_queries_bnhk, batch), student,
                                    as_rows(student.action_queries_bnhk, batch));
  if (skipped.defined()) action = action.view({skipped.size(0), -1}).masked_fill(skipped.unsqueeze(1), 0);
  LossSum loss{action.sum(), static_cast<double>(action.numel())};
  if (all_queries) {
    TORCH_CHECK(teacher.prefix_queries_bnpk.defined() && student.prefix_queries_bnpk.defined(),
                "the attention loss over all queries needs AttentionTap::backbone_queries in encode");
    const torch::Tensor prefix = divergence(teacher, as_rows(teacher.prefix_queries_bnpk, batch), student,
                                            as_rows(student.prefix_queries_bnpk, batch));
    const std::int64_t heads = student.prefix_queries_bnpk.size(1);
    const torch::Tensor valid = student.mask_bp.repeat_interleave(heads, 1);
    loss.sum = loss.sum + prefix.masked_fill(valid.logical_not(), 0).sum();
    loss.count += static_cast<double>(valid.sum().item<std::int64_t>());
  }
  return loss;
}

}  // namespace shallowpi
