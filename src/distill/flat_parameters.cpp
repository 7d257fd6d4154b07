#include "distill/flat_parameters.h"

#include <algorithm>

namespace shallowpi {
namespace {

torch::Tensor view_of(const torch::Tensor& flat, std::int64_t offset, const torch::Tensor& like) {
  return flat.narrow(0, offset, like.numel()).view(like.sizes());
}

}  // namespace

FlatParameters::FlatParameters(std::vector<ParameterGroup> groups) : groups_(std::move(groups)) {
  torch::NoGradGuard no_grad;
  const auto in_float32 = [](const ParameterGroup& g) {
    return g.parameter.scalar_type() == torch::kFloat32;
  };
  std::stable_partition(groups_.begin(), groups_.end(), in_float32);
  std::int64_t size = 0;
  for (const ParameterGroup& group : groups_) {
    offsets_.push_back(size);
    size += (group.parameter.numel() + kAlignment - 1) / kAlignment * kAlignment;
    if (in_float32(group)) float32_size_ = size;
  }
  const auto device = groups_.empty() ? torch::Device(torch::kCPU) : groups_.front().parameter.device();
  master_ = torch::zeros({size}, torch::dtype(torch::kFloat32).device(device));
  gradient_ = torch::zeros_like(master_);
  if (float32_size_ < size) {
    low_ = torch::zeros({size - float32_size_}, torch::dtype(torch::kBFloat16).device(device));
    low_gradient_ = torch::zeros_like(low_);
  }
  for (std::size_t i = 0; i < groups_.size(); ++i) {
    torch::Tensor& tensor = groups_[i].parameter;
    view_of(master_, offsets_[i], tensor).copy_(tensor);
    const bool low = offsets_[i] >= float32_size_;
    const std::int64_t offset = low ? offsets_[i] - float32_size_ : offsets_[i];
    tensor.set_data(view_of(low ? low_ : master_, offset, tensor));
    tensor.set_requires_grad(true);
    tensor.mutable_grad() = view_of(low ? low_gradient_ : gradient_, offset, tensor);
  }
  use(master_);
}

std::int64_t FlatParameters::count() const {
  std::int64_t total = 0;
  for (const ParameterGroup& group : groups_) total += group.parameter.numel();
  return total;
}

void FlatParameters::zero_gradient() {
  gradient_.zero_();
  if (low_gradient_.defined()) low_gradient_.zero_();
}

void FlatParameters::collect_gradient() {
  if (!low_gradient_.defined()) return;
  gradient_.narrow(0, float32_size_, low_.size(0)).add_(low_gradient_);
  low_gradient_.zero_();
}

void FlatParameters::use(const torch::Tensor& values) {
  torch::NoGradGuard no_grad;
  for (std::size_t i = 0; i < groups_.size() && offsets_[i] < float32_size_; ++i) {
    torch::Tensor& tensor = groups_[i].parameter;
    if (tensor.data_ptr() != values.data_ptr<float>() + offsets_[i])
      tensor.set_data(view_of(values, offsets_[i], tensor));
  }
  if (low_.defined()) low_.copy_(values.narrow(0, float32_size_, low_.size(0)));
}

NamedTensors FlatParameters::named(const torch::Tensor& values) const {
  NamedTensors result;
  for (std::size_t i = 0; i < groups_.size(); ++i)
    result.merge(split_parts(groups_[i], view_of(values, offsets_[i], groups_[i].parameter)));
  return result;
}

}  // namespace shallowpi
