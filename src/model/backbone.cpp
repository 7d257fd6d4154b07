#include "model/backbone.h"

#include <cmath>

#include "model/fused.h"
#include "model/tensor_names.h"

namespace shallowpi {

BackboneLayer::BackboneLayer(ParameterStore& store, const GemmaConfig& config, std::int64_t index)
    : heads(config.heads), is_last(index + 1 == config.depth) {
  const std::string layer = names::kBackboneLayers + std::to_string(index) + ".";
  const std::string attention = layer + "self_attn.", mlp = layer + "mlp.";
  const std::string q_name = attention + "q_proj.weight", k_name = attention + "k_proj.weight",
                    v_name = attention + "v_proj.weight";
  input_norm = store.add(layer + "input_layernorm.weight", Init::kZero);
  // No action token attends to the output of the last layer, so all but its keys and values is dead there.
  if (is_last) {
    qkv = store.add({k_name, v_name});
    q = store.add(q_name);
  } else {
    qkv = store.add({q_name, k_name, v_name});
  }
  o = store.add(attention + "o_proj.weight");
  post_norm = store.add(layer + "post_attention_layernorm.weight", Init::kZero);
  gate_up = store.add({mlp + "gate_proj.weight", mlp + "up_proj.weight"});
  down = store.add(mlp + "down_proj.weight");
}

Heads BackboneLayer::project_heads(const Tensor& normalized, const PrefixContext& context,
                                   bool with_queries) const {
  const bool queries = !is_last || with_queries;
  // Not by project(): its kernels read a weight that has just been made too early.
  const Tensor projected =
      is_last && with_queries ? torch::linear(normalized, torch::cat({q, qkv})) : project(normalized, qkv);
  return split_and_rotate(projected, context.rotation, queries ? heads : 0, qkv.scalar_type());
}

BackboneLayer::Output BackboneLayer::forward(const Residual& stream, const PrefixContext& context,
                                             bool with_queries) const {
  const auto [x, normalized] = norm(stream, {input_norm}, qkv.scalar_type());
  const Heads parts = project_heads(normalized, context, with_queries);
  if (is_last) return {parts, {}};

  const std::int64_t batch = x.size(0), tokens = x.size(1), head_dim = parts.k_bsk.size(2);
  const Tensor rows = parts.q_bsnk.view({batch, tokens * heads, head_dim});
  const Tensor mixed = context.fused
                           ? fused::attention({rows, heads, parts.k_bsk, parts.v_bsk, context.lengths_b})
                           : multi_query_attention(rows, parts.k_bsk, parts.v_bsk, context.key_mask_b1p);
  Tensor attended = project(mixed.view({batch, tokens, heads * head_dim}), o);
  // Padded rows stay zero through all layers: no matrix has a bias. The fused kernels read none of their
  // keys.
  if (context.row_mask_bp1.defined()) attended = attended * context.row_mask_bp1;
  const auto [middle, hidden] = norm(Residual{x, attended}, {post_norm}, down.scalar_type());
  return {parts, {middle, gated_mlp(hidden, gate_up, down)}};
}

Backbone::Backbone(ParameterStore& store, const GemmaConfig& config) : config_(config) {
  embed_tokens_ = store.add(names::kEmbedTokens);
  for (std::int64_t i = 0; i < config.depth; ++i) layers_.emplace_back(store, config, i);
  store.add(names::kBackbone + "norm.weight", Init::kZero);  // dead
}

Tensor Backbone::embed(const Tensor& ids) const {
  return torch::embedding(embed_tokens_, ids) * std::sqrt(static_cast<double>(config_.width));
}

void Backbone::encode(Tensor x, PrefixCache& cache, AttentionTap* tap, bool recompute) const {
  const std::int64_t tokens = x.size(1);
  PrefixContext context;
  context.rotation = rotation(torch::arange(tokens, x.options().dtype(torch::kInt64)), config_.head_dim);
  context.fused = fused::has_attention(x, config_.head_dim);
  if (cache.ragged) context.lengths_b = cache.lengths_b;
  if (cache.ragged && !context.fused) {
    context.key_mask_b1p = additive_mask(cache.mask_bp, x.scalar_type()).unsqueeze(1);
    context.row_mask_bp1 = cache.mask_bp.unsqueeze(2).to(x.scalar_type());
  }
  Residual stream{x.to(torch::kFloat32)};
  for (std::int64_t i = 0; i < config_.depth; ++i) {
    const BackboneLayer& layer = layers_[i];
    if (tap != nullptr && tap->layer_inputs != nullptr) tap->layer_inputs->push_back(stream.sum());
    const bool with_queries = tap != nullptr && tap->backbone_queries && tap->layer == i;
    BackboneLayer::Output out;
    if (recompute) {
      const auto run = [&layer, context, with_queries](const TensorList& in) -> TensorList {
        const BackboneLayer::Output result = layer.forward({in[0]}, context, with_queries);
        TensorList list{result.heads.k_bsk, result.heads.v_bsk};
        if (with_queries) list.push_back(result.heads.q_bsnk);
        if (!layer.is_last) list.push_back(result.next.sum());
        return list;
      };
      const TensorList list = recompute_in_backward(run, {stream.x}, layer.parameters());
      out.heads = {with_queries ? list[2] : Tensor(), list[0], list[1]};
      if (!layer.is_last) out.next = {list.back()};
    } else {
      out = layer.forward(stream, context, with_queries);
    }
    cache.keys_bpk.push_back(out.heads.k_bsk);
    cache.values_bpk.push_back(out.heads.v_bsk);
    if (with_queries) tap->prefix_queries_bnpk = out.heads.q_bsnk.transpose(1, 2);
    stream = out.next;
  }
}

}  // namespace shallowpi
