// The additive form of an attention mask.
#pragma once

#include <torch/types.h>

namespace shallowpi {

/// 0 where `allowed`, openpi's -2.3819763e38 where not. It is finite, so that a row without any key gives
/// uniform weights and not NaN.
inline torch::Tensor additive_mask(const torch::Tensor& allowed, torch::Dtype dtype) {
  return torch::zeros(allowed.sizes(), allowed.options().dtype(dtype))
      .masked_fill_(allowed.logical_not(), -2.3819763e38);
}

}  // namespace shallowpi
