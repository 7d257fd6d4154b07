// The parameters of a policy: several of openpi's tensors may be stored as one (fused) parameter, so that
// they are applied in one matrix product; their names keep pointing at slices of it.
#pragma once

#include <torch/torch.h>

#include <map>
#include <string>
#include <vector>

#include "shallowpi/model/policy.h"

namespace shallowpi {

/// What initialize() makes of a parameter.
enum class Init {
  kNormal,  ///< N(0, 1 / fan_in)
  kZero,
  kOne,
};

/// Creates parameters, and remembers what is in them.
/// Their shapes, precision and deadness are those of expected_tensors().
class ParameterStore {
 public:
  ParameterStore(const PolicyConfig& config, torch::Dtype dtype, torch::Device device)
      : expected_(expected_tensors(config)), dtype_(dtype), device_(device) {}

  /// A new uninitialised parameter: the tensors of these names stacked along dim 0.
  torch::Tensor add(const std::vector<std::string>& names, Init init = Init::kNormal);
  /// An unfused one.
  torch::Tensor add(const std::string& name, Init init = Init::kNormal) {
    return add(std::vector<std::string>{name}, init);
  }

  void initialize(std::uint64_t seed);
  torch::Dtype dtype() const { return dtype_; }
  torch::Device device() const { return device_; }
  const std::vector<ParameterGroup>& groups() const { return groups_; }

 private:
  std::map<std::string, ExpectedTensor> expected_;
  torch::Dtype dtype_;
  torch::Device device_;
  std::vector<ParameterGroup> groups_;
  std::vector<Init> inits_;  // per group
};

}  // namespace shallowpi
