#include "shallowpi/base/observation.h"

#include <torch/torch.h>

namespace shallowpi {

Observation Observation::map(const std::function<torch::Tensor(const torch::Tensor&)>& function) const {
  const auto of = [&](const torch::Tensor& tensor) { return tensor.defined() ? function(tensor) : tensor; };
  Observation result;
  for (const auto& image : images_bcyx) result.images_bcyx.push_back(of(image));
  for (const auto& mask : image_masks_b) result.image_masks_b.push_back(of(mask));
  result.tokens_bt = of(tokens_bt);
  result.token_mask_bt = of(token_mask_bt);
  result.state_bd = of(state_bd);
  return result;
}

void Observation::pad_prompts(std::int64_t tokens) {
  const std::int64_t missing = tokens - tokens_bt.size(1);
  if (missing <= 0) return;
  tokens_bt = torch::constant_pad_nd(tokens_bt, {0, missing}, 0);
  token_mask_bt = torch::constant_pad_nd(token_mask_bt, {0, missing}, false);
}

Observation Observation::to(torch::Device device) const {
  // To the host it must block: nobody waits for the device before the tensors are read there.
  return map(
      [&](const torch::Tensor& tensor) { return tensor.to(device, /*non_blocking=*/!device.is_cpu()); });
}

}  // namespace shallowpi
