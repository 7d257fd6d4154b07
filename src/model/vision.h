// SigLIP: patches of an image to tokens, through pre-norm transformer layers, and the projector to the
// backbone's width.
#pragma once

#include <string>
#include <vector>

#include "model/ops.h"
#include "model/parameters.h"
#include "shallowpi/model/config.h"

namespace shallowpi {

struct VisionLayer {
  Tensor norm1_weight, norm1_bias, qkv, qkv_bias, out, out_bias;
  Tensor norm2_weight, norm2_bias, fc1, fc1_bias, fc2, fc2_bias;

  VisionLayer(ParameterStore& store, const std::string& prefix);
  /// A stream [m, T, W].
  Residual forward(const Residual& stream, std::int64_t heads) const;
  TensorList parameters() const;
};

class VisionTower {
 public:
  VisionTower(ParameterStore& store, const VisionConfig& config);
  /// Pixels [m, 3, S, S] in [-1, 1] -> image tokens [m, T, backbone width].
  Tensor forward(const Tensor& pixels, bool recompute) const;

 private:
  /// Patch embedding plus position embedding, in float32.
  Tensor embed_patches(const Tensor& pixels) const;

  VisionConfig config_;
  torch::Dtype dtype_;
  Tensor patch_, patch_bias_, position_;
  std::vector<VisionLayer> layers_;
  Tensor post_norm_weight_, post_norm_bias_, projector_, projector_bias_;
};

}  // namespace shallowpi
