#include "model/parameters.h"

#include <ATen/CPUGeneratorImpl.h>

#include <cmath>

namespace shallowpi {

torch::Tensor ParameterStore::add(const std::vector<TensorSpec>& parts, Precision precision, bool dead) {
  ParameterGroup group;
  std::vector<Init> inits;
  std::int64_t rows = 0;
  for (const TensorSpec& part : parts) {
    TORCH_CHECK(std::equal(part.shape.begin() + 1, part.shape.end(), parts[0].shape.begin() + 1,
                           parts[0].shape.end()),
                part.name, " cannot be fused with ", parts[0].name);
    group.parts.push_back({part.name, rows, part.shape[0]});
    inits.push_back(part.init);
    rows += part.shape[0];
  }
  std::vector<std::int64_t> shape = parts[0].shape;
  shape[0] = rows;
  group.keep_float32 = precision == Precision::kFloat32;
  group.dead = dead;
  const auto dtype = group.keep_float32 ? torch::kFloat32 : dtype_;
  group.parameter = torch::empty(shape, torch::dtype(dtype).device(device_)).set_requires_grad(!dead);
  groups_.push_back(group);
  inits_.push_back(std::move(inits));
  return group.parameter;
}

void ParameterStore::initialize(std::uint64_t seed) {
  torch::NoGradGuard no_grad;
  auto generator = at::detail::createCPUGenerator(seed);
  for (std::size_t g = 0; g < groups_.size(); ++g) {
    for (std::size_t p = 0; p < groups_[g].parts.size(); ++p) {
      const ParameterPart& part = groups_[g].parts[p];
      torch::Tensor tensor = groups_[g].parameter.detach().narrow(0, part.begin, part.rows);
      if (inits_[g][p] == Init::kNormal) {
        const double fan_in = static_cast<double>(tensor.numel() / part.rows);
        tensor.copy_(
            torch::empty(tensor.sizes(), torch::kFloat32).normal_(0, 1 / std::sqrt(fan_in), generator));
      } else {
        tensor.fill_(inits_[g][p] == Init::kOne ? 1 : 0);
      }
    }
  }
}

}  // namespace shallowpi
