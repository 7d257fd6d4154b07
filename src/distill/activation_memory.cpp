#include "distill/activation_memory.h"

#include <algorithm>

namespace shallowpi {
namespace {

// Values kept per token by a layer that is differentiated.
std::int64_t tower_layer(const VisionConfig& v) {
  // Inputs of both LayerNorms and their results; q, k, v; the attention's result; MLP before and after GELU.
  return 8 * v.width + 2 * v.mlp;
}
std::int64_t gemma_layer(const GemmaConfig& g, std::int64_t keys, std::int64_t kept_widths) {
  // Normalised values; scaled q and the attention's result; attention weights; gate, up, GELU(gate), product.
  return kept_widths * g.width + 2 * g.heads * g.head_dim + g.heads * keys + 4 * g.mlp;
}

struct PassSizes {
  std::int64_t tower_tokens, prefix_tokens, suffix_tokens, suffix_keys;
};
PassSizes sizes_of(const PolicyConfig& config, const PassShape& shape) {
  const std::int64_t tokens = suffix_tokens(config, shape.horizon);
  return {shape.images * config.vision.tokens(), shape.batch * shape.prefix,
          shape.batch * shape.draws * tokens, shape.prefix + shape.draws * tokens};
}

}  // namespace

std::uint64_t training_activation_bytes(const PolicyConfig& config, const PassShape& shape,
                                        const ActivationSizes& sizes) {
  const PassSizes p = sizes_of(config, shape);
  const VisionConfig& v = config.vision;
  const GemmaConfig &b = config.backbone, &e = config.expert;
  // Per part: what one layer keeps, and what remains of it where layers are recomputed.
  const std::int64_t tower_kept = p.tower_tokens * tower_layer(v);
  const std::int64_t backbone_kept = p.prefix_tokens * (gemma_layer(b, shape.prefix, 4) + 2 * b.head_dim);
  const std::int64_t joined_keys = 2 * shape.batch * p.suffix_keys * e.head_dim;
  const std::int64_t expert_kept = p.suffix_tokens * gemma_layer(e, p.suffix_keys, 6) + joined_keys;
  const std::int64_t caches = config.depth() * p.prefix_tokens * 2 * b.head_dim;

  const auto total = [&](std::int64_t layers, std::int64_t kept, std::int64_t input) {
    return sizes.recompute ? layers * input + kept : layers * kept;
  };
  std::int64_t tower = 0, backbone = caches;
  if (sizes.tower_trained)
    tower = total(v.depth, tower_kept, p.tower_tokens * v.width) +
            p.tower_tokens * (2 * v.width + 3 * v.patch * v.patch);
  if (sizes.backbone_trained)
    backbone +=
        total(config.depth() - 1, backbone_kept, p.prefix_tokens * b.width) + 3 * p.prefix_tokens * b.width;
  std::int64_t expert = total(config.depth(), expert_kept, p.suffix_tokens * e.width);
  if (sizes.time_per_action)  // modulation and scale + 1 of both norms, float32
    expert += config.depth() * p.suffix_tokens * 8 * e.width * 4 / sizes.bytes_per_value;

  // Temporaries of one layer's backward pass: gradients of the MLP's four values, of the attention weights.
  const auto temporary = [](std::int64_t tokens, std::int64_t mlp, std::int64_t heads, std::int64_t keys,
                            std::int64_t width) {
    return tokens * (std::max(4 * mlp, 2 * heads * keys) + 2 * width);
  };
  const std::int64_t in_expert =
      tower + backbone + expert + temporary(p.suffix_tokens, e.mlp, e.heads, p.suffix_keys, e.width);
  const std::int64_t in_backbone =
      tower + backbone +
      (sizes.backbone_trained ? temporary(p.prefix_tokens, b.mlp, b.heads, shape.prefix, b.width) : 0);
  const std::int64_t in_tower =
      tower + (sizes.tower_trained ? temporary(p.tower_tokens, v.mlp, 0, 0, 3 * v.width) : 0);
  return static_cast<std::uint64_t>(std::max({in_expert, in_backbone, in_tower}) * sizes.bytes_per_value);
}

std::uint64_t inference_activation_bytes(const PolicyConfig& config, const PassShape& shape,
                                         std::int64_t bytes_per_value) {
  const PassSizes p = sizes_of(config, shape);
  const GemmaConfig &b = config.backbone, &e = config.expert;
  const std::int64_t caches = config.depth() * p.prefix_tokens * 2 * b.head_dim;
  const std::int64_t tower = p.tower_tokens * (5 * config.vision.width + 2 * config.vision.mlp);
  const std::int64_t backbone = caches + p.prefix_tokens * (3 * b.width + 4 * b.mlp);
  const std::int64_t expert = caches + p.suffix_tokens * (3 * e.width + 4 * e.mlp);
  return static_cast<std::uint64_t>(std::max({tower, backbone, expert}) * bytes_per_value);
}

}  // namespace shallowpi
