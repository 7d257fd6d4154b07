// LibTorch's settings of the process that suit inference, while an engine launches operators.
#pragma once

#include <ATen/Context.h>

#include <algorithm>
#include <mutex>

#include "shallowpi/model/policy.h"

namespace shallowpi {

/// On a GPU: no attention by cuDNN, which clears a buffer before each call and so costs more than it gains;
/// and TF32 for what stays float32 in a bfloat16 policy. The destructor puts back what was set before; until
/// then other policies of the process wait, which may want it otherwise. On a CPU nothing is set.
class InferenceSettings {
 public:
  InferenceSettings(const Policy& policy, torch::Device device) {
    if (!device.is_cuda()) return;
    lock_ = std::unique_lock(process_mutex());
    cudnn_ = context_.userEnabledCuDNNSDP();
    precision_ = context_.float32MatmulPrecision();
    context_.setSDPUseCuDNN(false);
    const auto& groups = policy->parameter_groups();
    if (std::any_of(groups.begin(), groups.end(), [](const ParameterGroup& group) {
          return group.parameter.scalar_type() == torch::kBFloat16;
        }))
      context_.setFloat32MatmulPrecision("high");
  }
  ~InferenceSettings() {
    if (!lock_) return;
    context_.setSDPUseCuDNN(cudnn_);
    context_.setFloat32MatmulPrecision(precision_ == at::Float32MatmulPrecision::HIGHEST ? "highest"
                                       : precision_ == at::Float32MatmulPrecision::HIGH  ? "high"
                                                                                         : "medium");
  }
  InferenceSettings(const InferenceSettings&) = delete;
  InferenceSettings& operator=(const InferenceSettings&) = delete;

 private:
  static std::mutex& process_mutex() {
    static std::mutex mutex;
    return mutex;
  }

  std::unique_lock<std::mutex> lock_;
  at::Context& context_ = at::globalContext();
  bool cudnn_ = false;
  at::Float32MatmulPrecision precision_ = at::Float32MatmulPrecision::HIGHEST;
};

}  // namespace shallowpi
