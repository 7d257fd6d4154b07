// Memory of a training step, from the sizes alone. The counts follow the model's code: what autograd keeps of
// each layer, in float32.
#pragma once

#include <cstdint>

#include "shallowpi/model/cost.h"

namespace shallowpi {

struct ActivationSizes {
  bool tower_trained = true;     ///< else its activations are not kept
  bool backbone_trained = true;  ///< does any gradient go into the prefix?
  bool recompute = false;        ///< activation checkpointing
  bool time_per_action = false;  ///< pi0.5: the layers' modulation differs from action to action
  std::int64_t bytes_per_value = 4;
};

/// Peak of what a training step holds: everything autograd keeps at the end of the forward pass, and the
/// largest temporaries of the backward pass.
std::uint64_t training_activation_bytes(const PolicyConfig& config, const PassShape& shape,
                                        const ActivationSizes& sizes);
/// Peak of a pass without gradient, such as the teacher's.
std::uint64_t inference_activation_bytes(const PolicyConfig& config, const PassShape& shape,
                                         std::int64_t bytes_per_value);

}  // namespace shallowpi
