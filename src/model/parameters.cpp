#include "model/parameters.h"

#include <ATen/CPUGeneratorImpl.h>

#include <algorithm>
#include <cmath>

namespace shallowpi {

torch::Tensor ParameterStore::add(const std::vector<std::string>& names, Init init) {
  const ExpectedTensor& first = expected_.at(names.front());
  ParameterGroup group;
  group.keep_float32 = first.keep_float32;
  group.dead = first.dead;
  std::int64_t rows = 0;
  for (const std::string& name : names) {
    const ExpectedTensor& part = expected_.at(name);
    TORCH_CHECK(
        part.keep_float32 == first.keep_float32 && part.dead == first.dead &&
            std::equal(part.shape.begin() + 1, part.shape.end(), first.shape.begin() + 1, first.shape.end()),
        name, " cannot be fused with ", names.front());
    group.parts.push_back({name, rows, part.shape[0]});
    rows += part.shape[0];
  }
  std::vector<std::int64_t> shape = first.shape;
  shape[0] = rows;
  const auto dtype = group.keep_float32 ? torch::kFloat32 : dtype_;
  group.parameter = torch::empty(shape, torch::dtype(dtype).device(device_)).set_requires_grad(!group.dead);
  groups_.push_back(group);
  inits_.push_back(init);
  return group.parameter;
}

void ParameterStore::initialize(std::uint64_t seed) {
  torch::NoGradGuard no_grad;
  const auto generator = at::make_generator<at::CPUGeneratorImpl>(seed);
  for (std::size_t g = 0; g < groups_.size(); ++g) {
    const torch::Tensor whole = groups_[g].parameter.detach();
    if (inits_[g] != Init::kNormal) {
      whole.fill_(inits_[g] == Init::kOne ? 1 : 0);
      continue;
    }
    for (const ParameterPart& part : groups_[g].parts) {
      const torch::Tensor tensor = whole.narrow(0, part.begin, part.rows);
      const double fan_in = static_cast<double>(tensor.numel() / part.rows);
      tensor.copy_(
          torch::empty(tensor.sizes(), torch::kFloat32).normal_(0, 1 / std::sqrt(fan_in), generator));
    }
  }
}

}  // namespace shallowpi
