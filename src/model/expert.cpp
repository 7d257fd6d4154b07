#include "model/expert.h"

#include <numbers>

#include "model/fused.h"
#include "model/tensor_names.h"

namespace shallowpi {

namespace {

/// [sin, cos] of t at `width`/2 frequencies, computed in float64 as openpi does:
/// t [...] -> float32 [..., width].
Tensor embed_time(const Tensor& t, std::int64_t width) {
  const auto options = torch::dtype(torch::kFloat64).device(t.device());
  const Tensor period =
      kMinPeriod * torch::pow(kMaxPeriod / kMinPeriod, torch::linspace(0, 1, width / 2, options));
  const Tensor angles = t.to(torch::kFloat64).unsqueeze(-1) * (2 * std::numbers::pi / period);
  return torch::cat({angles.sin(), angles.cos()}, -1).to(torch::kFloat32);
}

/// Applies `function` to each pair of tensors that is defined.
TimeConditioning map(const TimeConditioning& time, const TimeConditioning& other,
                     const std::function<Tensor(const Tensor&, const Tensor&)>& function) {
  TimeConditioning result;
  if (time.hidden.defined()) result.hidden = function(time.hidden, other.hidden);
  for (std::size_t i = 0; i < time.modulations.size(); ++i)
    result.modulations.push_back(function(time.modulations[i], other.modulations[i]));
  if (time.final_modulation.defined())
    result.final_modulation = function(time.final_modulation, other.final_modulation);
  return result;
}

}  // namespace

TimeConditioning TimeConditioning::step(std::int64_t k) const {
  return map(*this, *this, [k](const Tensor& all, const Tensor&) { return all.narrow(0, k, 1); });
}

TimeConditioning TimeConditioning::blend(const Tensor& mask_bh1, const TimeConditioning& other) const {
  return map(*this, other,
             [&](const Tensor& here, const Tensor& there) { return torch::where(mask_bh1, there, here); });
}

ExpertLayer::ExpertLayer(ParameterStore& store, const GemmaConfig& config, PolicyKind kind,
                         std::int64_t index)
    : heads(config.heads) {
  const std::string layer = names::kExpertLayers + std::to_string(index) + ".";
  const std::string attention = layer + "self_attn.", mlp = layer + "mlp.";
  const std::string norm1 = layer + "input_layernorm.", norm2 = layer + "post_attention_layernorm.";
  if (kind == PolicyKind::kPi0) {
    input_norm = store.add(norm1 + "weight", Init::kZero);
    post_norm = store.add(norm2 + "weight", Init::kZero);
  } else {
    modulation = store.add({norm1 + "dense.weight", norm2 + "dense.weight"}, Init::kZero);
    modulation_bias = store.add({norm1 + "dense.bias", norm2 + "dense.bias"}, Init::kZero);
  }
  qkv = store.add({attention + "q_proj.weight", attention + "k_proj.weight", attention + "v_proj.weight"});
  o = store.add(attention + "o_proj.weight");
  gate_up = store.add({mlp + "gate_proj.weight", mlp + "up_proj.weight"});
  down = store.add(mlp + "down_proj.weight");
}

ExpertLayer::Output ExpertLayer::forward(const Residual& stream, const Tensor& prefix_k,
                                         const Tensor& prefix_v, const Tensor& modulation_bd,
                                         const SuffixContext& context) const {
  const torch::Dtype dtype = qkv.scalar_type();
  NormFactors input_factors{input_norm}, post_factors{post_norm};
  Tensor attention_gate, mlp_gate;  // pi0 has none
  if (modulation_bd.defined()) {
    const TensorList parts = modulation_bd.chunk(6, -1);
    input_factors = {parts[0], parts[1]};
    attention_gate = parts[2];
    post_factors = {parts[3], parts[4]};
    mlp_gate = parts[5];
  }

  const std::int64_t rows = stream.x.size(0), tokens = stream.x.size(1), head_dim = prefix_k.size(2);
  const std::int64_t batch = context.batch, draw_tokens = rows / batch * tokens;
  const bool few = rows == batch && !stream.update.defined() &&
                   fused::can_run_layer(stream.x, qkv, o, gate_up, down, head_dim);
  Tensor x = stream.x;
  Heads own;
  if (few) {
    own = fused::norm_project_and_rotate(x, input_factors, qkv, context.rotation, heads);
  } else {
    const Normed input = norm(stream, input_factors, dtype);
    x = input.sum;
    own = split_and_rotate(project(input.normed.view({batch, draw_tokens, -1}), qkv), context.rotation, heads,
                           dtype);
  }
  const Tensor q = own.q_bsnk.view({batch, draw_tokens * heads, head_dim});
  // All draws of a cache row are queries of one attention over its prefix and over all of their own keys: the
  // prefix is never copied per draw, and the mask keeps the draws apart.
  const Tensor mixed = context.fused
                           ? fused::attention({q, heads, prefix_k, prefix_v, context.lengths_b, own.k_bsk,
                                               own.v_bsk, context.state_alone})
                           : multi_query_attention(q, torch::cat({prefix_k, own.k_bsk}, 1),
                                                   torch::cat({prefix_v, own.v_bsk}, 1), context.mask);
  const Tensor attended = mixed.view({rows, tokens, heads * head_dim});
  if (few) {
    const Tensor middle = fused::project_and_add(attended, o, x, attention_gate);
    const Tensor hidden = fused::norm_project_and_gate(middle, post_factors, gate_up);
    return {{fused::project_and_add(hidden, down, middle, mlp_gate)}, own.q_bsnk};
  }
  const auto [middle, hidden] = norm(Residual{x, project(attended, o), attention_gate}, post_factors, dtype);
  return {{middle, gated_mlp(hidden, gate_up, down), mlp_gate}, own.q_bsnk};
}

ActionExpert::ActionExpert(ParameterStore& store, const PolicyConfig& config)
    : kind_(config.kind), config_(config.expert), dtype_(store.dtype()) {
  const auto dense = [&store](const std::string& name, Tensor& weight, Tensor& bias,
                              Init init = Init::kNormal) {
    weight = store.add(name + ".weight", init);
    bias = store.add(name + ".bias", Init::kZero);
  };
  const bool is_pi0 = kind_ == PolicyKind::kPi0;
  for (std::int64_t i = 0; i < config_.depth; ++i) layers_.emplace_back(store, config_, kind_, i);
  if (is_pi0) {
    final_norm_ = store.add(names::kExpert + "norm.weight", Init::kZero);
    dense("state_proj", state_, state_bias_);
  } else {
    dense(names::kExpert + "norm.dense", final_modulation_, final_modulation_bias_, Init::kZero);
  }
  dense("action_in_proj", action_in_, action_in_bias_);
  dense("action_out_proj", action_out_, action_out_bias_);
  const std::string mlp = is_pi0 ? "action_time_mlp" : "time_mlp";
  dense(mlp + "_in", time_in_, time_in_bias_);
  dense(mlp + "_out", time_out_, time_out_bias_);
}

TimeConditioning ActionExpert::condition(const Tensor& t) const {
  const Tensor embedding = embed_time(t, config_.width);
  TimeConditioning result;
  if (kind_ == PolicyKind::kPi0) {
    result.hidden = torch::linear(embedding, time_in_.narrow(1, config_.width, config_.width), time_in_bias_);
    return result;
  }
  const Tensor condition = torch::silu(torch::linear(
      torch::silu(torch::linear(embedding, time_in_, time_in_bias_)), time_out_, time_out_bias_));
  for (const ExpertLayer& layer : layers_)
    result.modulations.push_back(torch::linear(condition, layer.modulation, layer.modulation_bias));
  result.final_modulation = torch::linear(condition, final_modulation_, final_modulation_bias_);
  return result;
}

Tensor ActionExpert::suffix_attention(std::int64_t draws, std::int64_t tokens, torch::Device device) const {
  Tensor one = torch::ones({tokens, tokens}, torch::dtype(torch::kBool).device(device));
  if (state_tokens() == 1) one[0].narrow(0, 1, tokens - 1).fill_(false);  // the state sees no action
  return torch::block_diag(TensorList(static_cast<std::size_t>(draws), one)).to(torch::kBool);
}

SuffixContext ActionExpert::prepare(const PrefixCache& cache, std::int64_t draws,
                                    std::int64_t horizon) const {
  const std::int64_t tokens = state_tokens() + horizon;
  SuffixContext context;
  context.batch = cache.lengths_b.size(0);
  const Tensor own = torch::arange(tokens, cache.lengths_b.options()).repeat({draws});
  context.rotation = rotation(cache.lengths_b.unsqueeze(1) + own, config_.head_dim);

  context.state_alone = state_tokens() == 1;
  if (cache.ragged) context.lengths_b = cache.lengths_b;
  const bool apart = draws > 1 || context.state_alone;
  context.fused = draws == 1 && fused::has_attention(cache.keys_bpk[0], config_.head_dim);
  if (context.fused || (!apart && !cache.ragged)) return context;
  const std::int64_t draw_tokens = draws * tokens, rows = apart ? draw_tokens : 1;
  const Tensor keys = cache.ragged ? cache.mask_bp : cache.mask_bp.narrow(0, 0, 1);
  const Tensor suffix =
      apart ? suffix_attention(draws, tokens, keys.device()) : torch::ones({1, draw_tokens}, keys.options());
  const Tensor allowed = torch::cat(
      {keys.unsqueeze(1).expand({-1, rows, -1}), suffix.unsqueeze(0).expand({keys.size(0), -1, -1})}, 2);
  context.mask = additive_mask(allowed, dtype_);
  if (apart) context.mask = context.mask.repeat_interleave(config_.heads, 1);
  return context;
}

Tensor ActionExpert::embed(const Tensor& state_bd, const Tensor& x_t, const TimeConditioning& time,
                           std::int64_t draws) const {
  const Tensor actions = torch::linear(x_t.to(torch::kFloat32), action_in_, action_in_bias_);
  if (kind_ == PolicyKind::kPi05) return actions;
  // openpi joins each action token with the embedding of t;
  // a product of two halves of the weight needs no copy.
  const Tensor hidden = torch::linear(actions, time_in_.narrow(1, 0, config_.width)) + time.hidden;
  const Tensor tokens = torch::linear(torch::silu(hidden), time_out_, time_out_bias_);
  Tensor state = torch::linear(state_bd.to(torch::kFloat32), state_, state_bias_).unsqueeze(1);
  if (draws > 1) state = state.repeat_interleave(draws, 0);
  return torch::cat({state, tokens}, 1);
}

Tensor ActionExpert::velocity(const PrefixCache& cache, const Tensor& state_bd, const Tensor& x_t,
                              const TimeConditioning& time, const SuffixContext& context, AttentionTap* tap,
                              bool recompute) const {
  const std::int64_t rows = x_t.size(0), horizon = x_t.size(1);
  Residual stream{embed(state_bd, x_t, time, rows / context.batch)};  // float32
  const auto show = [&] {
    if (tap != nullptr && tap->layer_inputs != nullptr) tap->layer_inputs->push_back(stream.sum());
  };
  for (std::size_t i = 0; i < layers_.size(); ++i) {
    const ExpertLayer& layer = layers_[i];
    show();
    const Tensor modulation = time.modulations.empty() ? Tensor() : time.modulations[i];
    ExpertLayer::Output out;
    if (recompute) {
      const auto run = [&layer, context](const TensorList& in) -> TensorList {
        const auto result = layer.forward({in[0]}, in[1], in[2], in.size() > 3 ? in[3] : Tensor(), context);
        return {result.next.sum(), result.q_bsnk};
      };
      TensorList in{stream.x, cache.keys_bpk[i], cache.values_bpk[i]};
      if (modulation.defined()) in.push_back(modulation);
      const TensorList list = recompute_in_backward(run, in, layer.parameters());
      out = {{list[0]}, list[1]};
    } else {
      out = layer.forward(stream, cache.keys_bpk[i], cache.values_bpk[i], modulation, context);
    }
    stream = out.next;
    if (tap != nullptr && tap->layer == static_cast<std::int64_t>(i)) {
      const Tensor q = out.q_bsnk.view({rows, -1, config_.heads, config_.head_dim});
      tap->action_queries_bnhk = q.narrow(1, state_tokens(), horizon).transpose(1, 2);
      tap->prefix_keys_bpk = cache.keys_bpk[i];
      tap->mask_bp = cache.mask_bp;
    }
  }
  show();
  NormFactors factors{final_norm_};
  if (kind_ == PolicyKind::kPi05) {
    const TensorList parts = time.final_modulation.chunk(3, -1);  // its gate is not used
    factors = {parts[0], parts[1]};
  }
  const Tensor actions = norm(stream, factors, torch::kFloat32).normed.narrow(1, state_tokens(), horizon);
  return torch::linear(actions, action_out_, action_out_bias_);
}

}  // namespace shallowpi
