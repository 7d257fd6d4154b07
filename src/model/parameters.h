// The parameters of a policy: several of openpi's tensors may be stored as one (fused) parameter, so that
// they are applied in one matrix product; their names keep pointing at slices of it.
#pragma once

#include <torch/torch.h>

#include <string>
#include <vector>

#include "shallowpi/model/policy.h"

namespace shallowpi {

enum class Init {
  kNormal,  ///< N(0, 1 / fan_in)
  kZero,
  kOne,
};

enum class Precision {
  kModel,    ///< the policy's dtype
  kFloat32,  ///< float32 in a bfloat16 policy too
};

/// One tensor of openpi's.
struct TensorSpec {
  std::string name;
  std::vector<std::int64_t> shape;
  Init init = Init::kNormal;
};

/// Creates parameters, and remembers what is in them.
class ParameterStore {
 public:
  ParameterStore(torch::Dtype dtype, torch::Device device) : dtype_(dtype), device_(device) {}

  /// A new uninitialised parameter: `parts` stacked along dim 0 (their other dims agree). Dead ones need no
  /// gradient.
  torch::Tensor add(const std::vector<TensorSpec>& parts, Precision precision = Precision::kModel,
                    bool dead = false);
  /// Shorthand for an unfused one.
  torch::Tensor add(const TensorSpec& part, Precision precision = Precision::kModel, bool dead = false) {
    return add(std::vector<TensorSpec>{part}, precision, dead);
  }

  void initialize(std::uint64_t seed);
  torch::Dtype dtype() const { return dtype_; }
  torch::Device device() const { return device_; }
  const std::vector<ParameterGroup>& groups() const { return groups_; }

 private:
  torch::Dtype dtype_;
  torch::Device device_;
  std::vector<ParameterGroup> groups_;
  std::vector<std::vector<Init>> inits_;  // per group, per part
};

}  // namespace shallowpi
