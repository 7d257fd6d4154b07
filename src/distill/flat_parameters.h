// All trained parameters as one vector. A tiny policy has hundreds of tensors, and one operator call on each
// would cost more than its arithmetic; on one vector the optimiser, clipping, EMA and the finite check are
// one call each, and several devices have one tensor to add up.
#pragma once

#include <torch/torch.h>

#include <string>
#include <vector>

#include "shallowpi/base/safetensors.h"
#include "shallowpi/model/policy.h"

namespace shallowpi {

/// Owns the float32 master weights and their gradient, and makes the module's parameters views of them.
/// Parameters that compute in bfloat16 are views of a bfloat16 copy instead, refreshed from the master.
class FlatParameters {
 public:
  /// In floats, of each parameter and of the whole: 64 bytes, a cache line and the widest vector register.
  static constexpr std::int64_t kAlignment = 16;

  /// Takes over the parameters of `groups` (float32 or bfloat16, on one device): their values become the
  /// master weights, and from now on they require gradients, which backward() accumulates into gradient().
  explicit FlatParameters(std::vector<ParameterGroup> groups);

  /// float32 [N]. Each parameter starts at a multiple of kAlignment; the padding between them stays zero.
  const torch::Tensor& master() const { return master_; }
  const torch::Tensor& gradient() const { return gradient_; }
  const std::vector<ParameterGroup>& groups() const { return groups_; }
  /// Number of trained values, without the padding.
  std::int64_t count() const;

  void zero_gradient();
  /// Adds what backward() left in bfloat16 parameters to gradient(); to be called after each backward().
  void collect_gradient();
  /// The module computes with `values` (float32 [N], not copied for float32 parameters) until told otherwise:
  /// with master() after each update, with the EMA weights for an evaluation.
  void use(const torch::Tensor& values);

  /// `values` (float32 [N]) as one view per checkpoint tensor, by openpi's name.
  NamedTensors named(const torch::Tensor& values) const;

 private:
  std::vector<ParameterGroup> groups_;
  std::vector<std::int64_t> offsets_;
  std::int64_t float32_size_ = 0;     // parameters that compute in float32 come first
  torch::Tensor master_, gradient_;   // float32 [N]
  torch::Tensor low_, low_gradient_;  // bfloat16, the rest of N; undefined where all compute in float32
};

}  // namespace shallowpi
