#include "shallowpi/base/trace.h"

#include <torch/csrc/autograd/profiler_kineto.h>
#include <torch/torch.h>

namespace shallowpi {

void trace(const std::filesystem::path& path, torch::Device device, const std::function<void()>& work) {
  namespace profiler = torch::autograd::profiler;
  using torch::profiler::impl::ActivityType;
  const torch::profiler::impl::ProfilerConfig config(torch::profiler::impl::ProfilerState::KINETO);
  std::set<ActivityType> activities{ActivityType::CPU};
  if (device.is_cuda()) activities.insert(ActivityType::CUDA);
  profiler::prepareProfiler(config, activities);
  profiler::enableProfiler(config, activities, {at::RecordScope::FUNCTION});
  work();
  if (device.is_cuda()) torch::cuda::synchronize(device.index());
  profiler::disableProfiler()->save(path.string());
}

}  // namespace shallowpi
