#include "shallowpi/base/observation.h"

#include <torch/torch.h>

namespace shallowpi {

Observation Observation::to(torch::Device device) const {
  // To the host it must block: nobody waits for the device before the tensors are read there.
  const auto move = [&](const torch::Tensor& tensor) {
    return tensor.defined() ? tensor.to(device, /*non_blocking=*/!device.is_cpu()) : tensor;
  };
  Observation moved;
  for (const auto& image : images_bcyx) moved.images_bcyx.push_back(move(image));
  for (const auto& mask : image_masks_b) moved.image_masks_b.push_back(move(mask));
  moved.tokens_bt = move(tokens_bt);
  moved.token_mask_bt = move(token_mask_bt);
  moved.state_bd = move(state_bd);
  return moved;
}

}  // namespace shallowpi
