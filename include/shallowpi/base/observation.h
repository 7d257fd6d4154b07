// What a policy sees and what it learns from, as tensors ready for the network.
//
// Shape suffixes used throughout the project:
//   b batch   h horizon (action steps)   d state/action dims, padded to A, the policy's action width (32 in
//   the released ones)   t prompt tokens
//   p prefix tokens   s suffix tokens   n attention heads   k head width   w model width
//   l layers   r flow draws   c,y,x image
#pragma once

#include <torch/types.h>

#include <functional>
#include <vector>

namespace shallowpi {

/// A batch of observations. Cameras that do not exist are left out of `images_bcyx`, not filled with black.
struct Observation {
  std::vector<torch::Tensor> images_bcyx;    ///< per camera float32 [B, 3, S, S] in [-1, 1]
  std::vector<torch::Tensor> image_masks_b;  ///< per camera bool [B]: does this sample have it?
  torch::Tensor tokens_bt;                   ///< int64 [B, T] prompt ids, 0 where padded
  torch::Tensor token_mask_bt;               ///< bool [B, T], true for real tokens, which come first
  torch::Tensor state_bd;                    ///< float32 [B, A] normalised, zero-padded (read by pi0 only)

  std::int64_t batch_size() const { return tokens_bt.size(0); }
  /// `function` of each tensor that is defined.
  Observation map(const std::function<torch::Tensor(const torch::Tensor&)>& function) const;
  Observation to(torch::Device device) const;
  /// Lengthens the prompts to `tokens` with tokens that do not count; longer ones stay.
  void pad_prompts(std::int64_t tokens);
};

/// An observation with the actions that were taken.
struct TrainingBatch {
  Observation observation;
  torch::Tensor actions_bhd;  ///< float32 [B, H, A] normalised, zero-padded
};

}  // namespace shallowpi
