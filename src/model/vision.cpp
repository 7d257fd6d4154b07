#include "model/vision.h"

#include "model/fused.h"
#include "model/tensor_names.h"

namespace shallowpi {

VisionLayer::VisionLayer(ParameterStore& store, const std::string& prefix) {
  const std::string attention = prefix + "self_attn.", mlp = prefix + "mlp.";
  norm1_weight = store.add(prefix + "layer_norm1.weight", Init::kOne);
  norm1_bias = store.add(prefix + "layer_norm1.bias", Init::kZero);
  qkv = store.add({attention + "q_proj.weight", attention + "k_proj.weight", attention + "v_proj.weight"});
  qkv_bias = store.add({attention + "q_proj.bias", attention + "k_proj.bias", attention + "v_proj.bias"},
                       Init::kZero);
  out = store.add(attention + "out_proj.weight");
  out_bias = store.add(attention + "out_proj.bias", Init::kZero);
  norm2_weight = store.add(prefix + "layer_norm2.weight", Init::kOne);
  norm2_bias = store.add(prefix + "layer_norm2.bias", Init::kZero);
  fc1 = store.add(mlp + "fc1.weight");
  fc1_bias = store.add(mlp + "fc1.bias", Init::kZero);
  fc2 = store.add(mlp + "fc2.weight");
  fc2_bias = store.add(mlp + "fc2.bias", Init::kZero);
}

TensorList VisionLayer::parameters() const {
  return {norm1_weight, norm1_bias, qkv, qkv_bias, out, out_bias,
          norm2_weight, norm2_bias, fc1, fc1_bias, fc2, fc2_bias};
}

Residual VisionLayer::forward(const Residual& stream, std::int64_t heads) const {
  const auto [x, normalized] = layer_norm(stream, norm1_weight, norm1_bias);
  const std::int64_t images = x.size(0), tokens = x.size(1), width = x.size(2);
  const Tensor projected = torch::linear(normalized, qkv, qkv_bias);
  Tensor attended;
  if (fused::can_self_attend(projected, heads)) {
    attended = fused::self_attention(projected, heads);
  } else {
    const auto parts =
        projected.view({images, tokens, 3, heads, width / heads}).permute({2, 0, 3, 1, 4}).unbind(0);
    const Tensor mixed = torch::scaled_dot_product_attention(parts[0], parts[1], parts[2]);
    attended = mixed.transpose(1, 2).reshape({images, tokens, width});
  }
  const auto [middle, second] =
      layer_norm(Residual{x, torch::linear(attended, out, out_bias)}, norm2_weight, norm2_bias);
  return {middle, torch::linear(linear_gelu(second, fc1, fc1_bias), fc2, fc2_bias)};
}

VisionTower::VisionTower(ParameterStore& store, const VisionConfig& config)
    : config_(config), dtype_(store.dtype()) {
  const std::string embeddings = names::kVision + "embeddings.";
  patch_ = store.add(embeddings + "patch_embedding.weight");
  patch_bias_ = store.add(embeddings + "patch_embedding.bias", Init::kZero);
  position_ = store.add(embeddings + "position_embedding.weight");
  for (std::int64_t i = 0; i < config.depth; ++i)
    layers_.emplace_back(store, names::kVisionLayers + std::to_string(i) + ".");
  post_norm_weight_ = store.add(names::kVision + "post_layernorm.weight", Init::kOne);
  post_norm_bias_ = store.add(names::kVision + "post_layernorm.bias", Init::kZero);
  projector_ = store.add(names::kProjector + "weight");
  projector_bias_ = store.add(names::kProjector + "bias", Init::kZero);
}

Tensor VisionTower::embed_patches(const Tensor& pixels) const {
  // A convolution whose stride is its size is a product of patches and weight.
  const std::int64_t images = pixels.size(0), side = config_.image_size / config_.patch,
                     patch = config_.patch;
  const Tensor patches = pixels.to(torch::kFloat32)
                             .view({images, 3, side, patch, side, patch})
                             .permute({0, 2, 4, 1, 3, 5})
                             .reshape({images, side * side, 3 * patch * patch});
  return torch::linear(patches, patch_.flatten(1), patch_bias_) + position_;
}

Tensor VisionTower::forward(const Tensor& pixels, bool recompute) const {
  Residual stream{embed_patches(pixels).to(dtype_)};
  for (const VisionLayer& layer : layers_) {
    if (recompute) {
      const auto run = [&layer, heads = config_.heads](const TensorList& in) -> TensorList {
        return {layer.forward({in[0]}, heads).sum()};
      };
      stream = {recompute_in_backward(run, {stream.x}, layer.parameters())[0]};
    } else {
      stream = layer.forward(stream, config_.heads);
    }
  }
  return torch::linear(layer_norm(stream, post_norm_weight_, post_norm_bias_).normed, projector_,
                       projector_bias_);
}

}  // namespace shallowpi
