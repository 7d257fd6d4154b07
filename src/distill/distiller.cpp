#include "shallowpi/distill/distiller.h"

#include "model/tensor_names.h"
#include "shallowpi/base/error.h"
#include "shallowpi/base/text.h"

namespace shallowpi {
namespace {

std::vector<ParameterGroup> tower_groups(Policy& policy) {
  std::vector<ParameterGroup> groups;
  for (const ParameterGroup& group : policy->parameter_groups())
    if (names::is_tower(group.parts.front().name)) groups.push_back(group);
  return groups;
}

std::int64_t placed_layer(AttentionPlacement placement, std::int64_t depth) {
  switch (placement) {
    case AttentionPlacement::kFirst:
      return 0;
    case AttentionPlacement::kLast:
      return depth - 1;
    case AttentionPlacement::kMiddle:
      break;
  }
  return depth / 2;
}

}  // namespace

torch::Tensor objective(const LossTerms& terms) {
  torch::Tensor total;
  for (const LossTerm& term : terms) {
    const torch::Tensor weighted = term.loss.sum * (term.weight / term.loss.count);
    total = total.defined() ? total + weighted : weighted;
  }
  return total;
}

TrainingBatch narrow(const TrainingBatch& batch, std::int64_t begin, std::int64_t count) {
  if (begin == 0 && count == batch.observation.batch_size()) return batch;
  const auto part = [&](const torch::Tensor& tensor) { return tensor.narrow(0, begin, count); };
  return {batch.observation.map(part), part(batch.actions_bhd)};
}

FlowDraw narrow(const FlowDraw& draw, std::int64_t batch_size, std::int64_t begin, std::int64_t count) {
  const std::int64_t draws = draw.t.size(0) / batch_size;
  return draw.map(
      [&](const torch::Tensor& tensor) { return tensor.narrow(0, begin * draws, count * draws); });
}

Distiller::Distiller(Policy student, Policy teacher, const LossConfig& config,
                     std::vector<std::int64_t> kept_layers, std::int64_t loss_dims, bool teacher_continues)
    : student_(std::move(student)),
      teacher_(std::move(teacher)),
      config_(config),
      loss_dims_(loss_dims),
      teacher_continues_(teacher_continues) {
  if (teacher_.is_empty()) return;
  student_layer_ = placed_layer(config.attn_placement, student_->config().depth());
  teacher_layer_ = kept_layers.at(static_cast<std::size_t>(student_layer_));
  shares_layout_ = student_->config().vision.tokens() == teacher_->config().vision.tokens() &&
                   student_->config().vocab == teacher_->config().vocab;
  const GemmaConfig& ours = student_->config().backbone;
  const GemmaConfig& theirs = teacher_->config().backbone;
  if (config.attn > 0 && (ours.heads != theirs.heads || ours.head_dim != theirs.head_dim))
    throw UsageError(str("loss.attn compares attention head by head, but the student has ", ours.heads,
                         " heads of ", ours.head_dim, " and the teacher ", theirs.heads, " of ",
                         theirs.head_dim, "; set it to 0"));
}

void Distiller::share_tower() {
  if (teacher_.is_empty()) return;
  const auto ours = tower_groups(student_), theirs = tower_groups(teacher_);
  const auto is_shareable = [](const ParameterGroup& our, const ParameterGroup& their) {
    const torch::Tensor &a = our.parameter, &b = their.parameter;
    return !a.requires_grad() && a.scalar_type() == b.scalar_type() && at::equal(a, b);
  };
  if (!std::equal(ours.begin(), ours.end(), theirs.begin(), theirs.end(), is_shareable)) return;
  for (std::size_t i = 0; i < ours.size(); ++i) {
    torch::Tensor parameter = ours[i].parameter;
    parameter.set_data(theirs[i].parameter.detach());
  }
  shares_tower_ = true;
}

Distiller::Pass Distiller::run(Policy& policy, const TrainingBatch& batch, const FlowDraw& draw,
                               std::int64_t layer, const PrefixLayout& layout,
                               const torch::Tensor& image_tokens) {
  Pass pass;
  pass.tap.layer = layer;
  pass.tap.backbone_queries = config_.attn_queries == AttentionQueries::kAll;
  AttentionTap* tap = config_.attn > 0 && !teacher_.is_empty() ? &pass.tap : nullptr;
  const PrefixCache cache = policy->encode(batch.observation, layout, tap, image_tokens);
  pass.velocity_bhd =
      policy->velocity(cache, batch.observation.state_bd, draw.x_t, draw.t, tap, draw.given_mask_bh);
  return pass;
}

LossTerms Distiller::losses(const TrainingBatch& batch, const FlowDraw& draw) {
  // Made on the host, for which a GPU must come to rest: once, before there is work for it.
  const PrefixLayout layout = student_->layout(batch.observation);
  torch::Tensor image_tokens;
  Pass teacher;
  if (!teacher_.is_empty()) {
    torch::NoGradGuard no_grad;
    if (shares_tower_) image_tokens = student_->embed_images(batch.observation, layout);
    teacher = run(teacher_, batch, draw, teacher_layer_,
                  shares_layout_ ? layout : teacher_->layout(batch.observation), image_tokens);
  }
  const Pass student = run(student_, batch, draw, student_layer_, layout, image_tokens);
  LossTerms terms;
  const torch::Tensor& given = draw.given_mask_bh;
  if (config_.task > 0)  // equation 1: the demonstration's velocity
    terms.push_back(
        {"task", config_.task, velocity_loss(student.velocity_bhd, draw.target, loss_dims_, given)});
  if (teacher_.is_empty()) return terms;
  torch::Tensor unknown_b;  // draws that mean nothing to the teacher
  if (given.defined() && !teacher_continues_) unknown_b = given.any(1);
  if (config_.kd > 0)  // equation 2: the teacher's velocity
    terms.push_back({"kd", config_.kd,
                     velocity_loss(student.velocity_bhd, teacher.velocity_bhd, loss_dims_,
                                   unknown_b.defined() ? unknown_b.unsqueeze(1) : given)});
  if (config_.attn > 0)  // equation 3: the teacher's attention
    terms.push_back({"attn", config_.attn,
                     attention_loss(teacher.tap, student.tap, config_.attn_queries == AttentionQueries::kAll,
                                    unknown_b)});
  return terms;
}

}  // namespace shallowpi
