// A fresh pi0.5 policy has closed gates (adaRMS dense layers of zeros):
// its layers pass their input on unchanged.
#pragma once

#include "shallowpi/model/policy.h"

namespace shallowpi::testing {

/// Random adaRMS layers, so that the result depends on every layer.
inline void open_gates(Policy& policy) {
  torch::NoGradGuard no_grad;
  torch::manual_seed(1);
  for (auto& [name, tensor] : policy->named_tensors())
    if (name.find(".dense.") != std::string::npos) tensor.normal_(0.0, 0.5);
}

}  // namespace shallowpi::testing
