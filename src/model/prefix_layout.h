// Where every valid prefix token goes: masked cameras and padded prompt tokens are left out, the others of a
// sample come first in their order (camera 0, camera 1, ..., prompt).
#pragma once

#include <torch/torch.h>

#include <vector>

#include "shallowpi/base/observation.h"

namespace shallowpi {

struct PrefixLayout {
  std::vector<std::vector<std::int64_t>> camera_samples;  ///< per camera, the samples that have it
  torch::Tensor
      prompt_positions;        ///< int64 [n] positions of the real prompt tokens within tokens_bt, flattened
  torch::Tensor destinations;  ///< int64 [m*T + n] row within [B*P] of every image token (camera-major), then
                               ///< of every prompt token
  torch::Tensor lengths_b;  ///< int64 [B] valid tokens per sample
  std::int64_t length = 0;  ///< P, of the longest sample
  bool ragged = false;      ///< do the lengths differ?
};

/// Works on the host: the masks are copied there. Tensors of the layout are on the observation's device.
/// Throws UsageError for a sample without any token, for masks of the wrong shape and for prompt ids outside
/// [0, vocab).
PrefixLayout layout_prefix(const Observation& observation, std::int64_t tokens_per_image, std::int64_t vocab);

}  // namespace shallowpi
