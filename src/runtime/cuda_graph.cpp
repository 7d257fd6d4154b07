// Capturing CUDA graphs.
#include "runtime/graph_engine.h"
#include "shallowpi/base/error.h"

#ifdef SHALLOWPI_CUDA
#include <ATen/cuda/CUDAGraph.h>
#include <c10/core/StreamGuard.h>
#include <c10/core/impl/VirtualGuardImpl.h>
#endif

namespace shallowpi {

#ifdef SHALLOWPI_CUDA
namespace {

// Libraries set themselves up in the first passes (handles, workspaces), which cannot be captured.
constexpr int kWarmUps = 2;

std::shared_ptr<at::cuda::CUDAGraph> capture(c10::Stream stream, c10::MempoolId_t pool,
                                             const std::function<void()>& work) {
  const c10::impl::VirtualGuardImpl cuda(stream.device_type());
  cuda.getStream(stream.device()).synchronize();  // the buffers have been filled on it
  const c10::StreamGuard side(stream);
  for (int i = 0; i < kWarmUps; ++i) work();
  stream.synchronize();
  auto graph = std::make_shared<at::cuda::CUDAGraph>();
  // Of this thread alone: others may wait for the device meanwhile.
  graph->capture_begin(pool, cudaStreamCaptureModeThreadLocal);
  try {
    work();
  } catch (...) {
    try {
      graph->capture_end();  // else the allocator would go on serving the capture
    } catch (...) {          // the first error says more
    }
    throw;
  }
  graph->capture_end();
  return graph;
}

}  // namespace

bool cuda_graphs_available(torch::Device device) {
  return device.is_cuda();
}

Recorder cuda_graph_recorder(torch::Device device) {
  if (!device.is_cuda()) throw UsageError("--engine graph needs a GPU; on a CPU use --engine eager");
  // Graphs run one after another and keep nothing but their buffers, so all use the same memory in between.
  // The default stream cannot be captured. One for all: libraries keep a workspace per stream.
  const c10::Stream stream = c10::impl::VirtualGuardImpl(device.type()).getStreamFromGlobalPool(device);
  return [stream, pool = at::cuda::graph_pool_handle()](
             const std::function<void()>& work) mutable -> std::function<void()> {
    try {
      return [graph = capture(stream, pool, work)] { graph->replay(); };
    } catch (...) {
      pool = at::cuda::graph_pool_handle();  // LibTorch refuses one that no graph uses any more
      throw;
    }
  };
}
#else
bool cuda_graphs_available(torch::Device) {
  return false;
}

Recorder cuda_graph_recorder(torch::Device device) {
  if (!device.is_cuda()) throw UsageError("--engine graph needs a GPU; on a CPU use --engine eager");
  throw UsageError("--engine graph: this program was built without CUDA graphs (scripts/build.sh --cuda)");
}
#endif

}  // namespace shallowpi
