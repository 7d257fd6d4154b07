// Thin launches of the row functions of fused_rows.cuh.
#include <c10/cuda/CUDAGuard.h>

#include <atomic>
#include <map>
#include <mutex>

#include "model/fused_device.cuh"
#include "model/fused_rows.cuh"

namespace shallowpi::fused {
namespace {

std::atomic<bool> clusters_allowed = true;

/// A block's threads for a row of so many packs.
int team_size(std::int64_t packs, int most) {
  return static_cast<int>(std::clamp<std::int64_t>((packs + kWarp - 1) / kWarp * kWarp, kWarp, most));
}

__device__ Team block_team() {
  __shared__ float scratch[kWarp];
  return {int(threadIdx.x), int(blockDim.x), scratch};
}

/// The row that starts `offset` values after the first.
template <typename Value, typename Update, typename Out>
__device__ NormRow<Value, Update, Out> row_at(NormRow<Value, Update, Out> row, std::int64_t offset) {
  row.x += offset;
  row.update.first = at(row.update.first, offset);
  row.sum = at(row.sum, offset);
  row.out += offset;
  return row;
}

template <typename Update, typename Out>
__global__ void rms_norm_kernel(RmsNormLaunch<Update, Out> work) {
  wait_for_previous();
  const int s = blockIdx.x, b = blockIdx.y;
  auto row = row_at(work.first, (b * work.tokens + s) * work.width);
  row.gate = at(row.gate, work.gate, b, s);
  rms_norm(block_team(), int(work.width), row, at(work.first_scale, work.scale, b, s),
           at(work.first_shift, work.shift, b, s));
}

template <typename T>
__global__ void layer_norm_kernel(LayerNormLaunch<T> work) {
  wait_for_previous();
  layer_norm(block_team(), int(work.width), row_at(work.first, blockIdx.x * work.width), work.weight,
             work.bias);
}

template <typename In, typename Out>
__global__ void rotary_kernel(RotaryLaunch<In, Out> work) {
  wait_for_previous();
  const int s = blockIdx.x, b = blockIdx.y;
  const std::int64_t token = b * work.tokens + s;
  RotaryRow<In, Out> row = work.first;
  row.qkv.first += token * (work.heads + 2) * work.head_dim;
  row.cos = at(row.cos, work.cos, b, s);
  row.sin = at(row.sin, work.sin, b, s);
  row.q += token * work.heads * work.head_dim;
  row.k += token * work.head_dim;
  row.v += token * work.head_dim;
  split_and_rotate(block_team(), int(work.heads), int(work.head_dim), row);
}

/// The widest load of a type.
template <typename T>
constexpr int kWide = 16 / sizeof(T);

template <typename T>
__global__ void gate_kernel(GateLaunch<T> work) {
  wait_for_previous();
  const std::int64_t i = (blockIdx.y * std::int64_t(blockDim.x) + threadIdx.x) * kWide<T>;
  if (i >= work.width) return;
  const T* gate = work.gate_up + blockIdx.x * 2 * work.width + i;
  gate_pack<kWide<T>>(gate, gate + work.width, work.out + blockIdx.x * work.width + i);
}

}  // namespace

bool runs_on(int device) {
  static std::mutex mutex;
  static std::map<int, bool> known;
  const std::lock_guard lock(mutex);
  const auto [entry, is_new] = known.try_emplace(device, false);
  if (is_new) {
    const c10::cuda::CUDAGuard guard(static_cast<c10::DeviceIndex>(device));
    cudaFuncAttributes attributes;  // known where the program holds the kernel for this GPU
    entry->second = cudaFuncGetAttributes(&attributes, gate_kernel<float>) == cudaSuccess;
    cudaGetLastError();
  }
  return entry->second;
}

bool has_clusters() {
  return clusters_allowed && device_attribute(cudaDevAttrComputeCapabilityMajor) >= 9;
}

void allow_clusters(bool allowed) {
  clusters_allowed = allowed;
}

template <typename Update, typename Out>
void launch(const RmsNormLaunch<Update, Out>& work, CudaStream stream) {
  const dim3 grid(static_cast<unsigned>(work.tokens), static_cast<unsigned>(work.batch));
  start(rms_norm_kernel<Update, Out>, {grid, team_size(work.width / kPack, 512)}, stream, work);
}
template void launch(const RmsNormLaunch<float, float>&, CudaStream);
template void launch(const RmsNormLaunch<float, BFloat16>&, CudaStream);
template void launch(const RmsNormLaunch<BFloat16, float>&, CudaStream);
template void launch(const RmsNormLaunch<BFloat16, BFloat16>&, CudaStream);

template <typename T>
void launch(const LayerNormLaunch<T>& work, CudaStream stream) {
  start(layer_norm_kernel<T>, {dim3(static_cast<unsigned>(work.rows)), team_size(work.width / kPack, 512)},
        stream, work);
}
template void launch(const LayerNormLaunch<float>&, CudaStream);
template void launch(const LayerNormLaunch<BFloat16>&, CudaStream);

template <typename In, typename Out>
void launch(const RotaryLaunch<In, Out>& work, CudaStream stream) {
  const dim3 grid(static_cast<unsigned>(work.tokens), static_cast<unsigned>(work.batch));
  const std::int64_t packs = (work.heads + 2) * work.head_dim / 2 / kPack;
  start(rotary_kernel<In, Out>, {grid, team_size(packs, 512)}, stream, work);
}
template void launch(const RotaryLaunch<float, float>&, CudaStream);
template void launch(const RotaryLaunch<float, BFloat16>&, CudaStream);
template void launch(const RotaryLaunch<BFloat16, BFloat16>&, CudaStream);

template <typename T>
void launch(const GateLaunch<T>& work, CudaStream stream) {
  const std::int64_t packs = work.width / kWide<T>;
  const int threads = team_size(packs, 256);
  const dim3 grid(static_cast<unsigned>(work.rows), static_cast<unsigned>((packs + threads - 1) / threads));
  start(gate_kernel<T>, {grid, threads}, stream, work);
}
template void launch(const GateLaunch<float>&, CudaStream);
template void launch(const GateLaunch<BFloat16>&, CudaStream);

}  // namespace shallowpi::fused
