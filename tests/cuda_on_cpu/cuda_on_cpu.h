// As much of CUDA's language and runtime as src/model/fused_*.cu use, on a CPU: included before each of those
// files, it lets a C++ compiler translate them, so that the tests of the kernels run where there is no GPU.
// It is slow.
//
// A block is one system thread; its CUDA threads are contexts that take turns, each running until it has to
// wait for others: at a barrier, or in an instruction of its warp. The blocks of a cluster run at the same
// time. What it cannot show: whether two threads race between barriers, and what memory that nobody waited
// for holds on a real GPU (copies under way are made at the wait for them).
#pragma once

#include <c10/util/BFloat16.h>
#include <c10/util/Exception.h>

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <functional>
#include <map>
#include <mutex>

#define __CUDA_ARCH__ 900  // after the headers that would ask for it
#define __global__
#define __host__
#define __device__
#define __shared__ thread_local  // static too, where it stands in a function
#define __align__(bytes) __attribute__((aligned(bytes)))
#define __launch_bounds__(...)

struct dim3 {
  unsigned x, y, z;
  dim3(unsigned x = 1, unsigned y = 1, unsigned z = 1) : x(x), y(y), z(z) {}
};
struct float2 {
  float x, y;
};
struct alignas(16) float4 {
  float x, y, z, w;
};
struct alignas(16) uint4 {
  unsigned x, y, z, w;
};
inline float2 make_float2(float x, float y) {
  return {x, y};
}
inline float4 make_float4(float x, float y, float z, float w) {
  return {x, y, z, w};
}
inline float rsqrtf(float x) {
  return 1 / std::sqrt(x);
}
using std::max;
using std::min;

namespace cuda_on_cpu {

/// Wait for the other threads of the warp, the block or the cluster, as far as they have not ended.
void sync_warp();
void sync_block();
void sync_cluster();

/// What each lane gave, after all lanes of the warp have given something; until the next call but one.
constexpr int kMostWords = 6;
using Words = std::uint32_t[kMostWords];
const Words* exchange(const std::uint32_t* words, int count);

/// Where block `rank` of the cluster has what this block has at `mine`, in the dynamic shared memory.
const void* in_block(const void* mine, unsigned rank);

/// 16 bytes that arrive when they are waited for.
void copy_later(void* to, const void* from, bool valid);
void commit_copies();
void wait_for_copies(std::size_t pending);

/// Runs `thread` for every thread of the grid; `cluster` blocks along y at the same time.
void launch(dim3 grid, dim3 block, unsigned cluster, std::size_t shared_bytes,
            const std::function<void()>& thread);

}  // namespace cuda_on_cpu

/// The running thread's.
extern thread_local dim3 threadIdx, blockIdx, gridDim, blockDim;

inline void __syncthreads() {
  cuda_on_cpu::sync_block();
}
inline void __syncwarp() {
  cuda_on_cpu::sync_warp();
}
inline float __shfl_sync(unsigned, float value, int lane) {
  std::uint32_t word;
  std::memcpy(&word, &value, 4);
  std::memcpy(&value, cuda_on_cpu::exchange(&word, 1)[lane], 4);
  return value;
}
inline float __shfl_xor_sync(unsigned mask, float value, int offset) {
  return __shfl_sync(mask, value, static_cast<int>(threadIdx.x % 32) ^ offset);
}

enum cudaError_t { cudaSuccess };
enum cudaDeviceAttr {
  cudaDevAttrComputeCapabilityMajor,
  cudaDevAttrMultiProcessorCount,
  cudaDevAttrMaxSharedMemoryPerBlockOptin
};
enum cudaLaunchAttributeID {
  cudaLaunchAttributeProgrammaticStreamSerialization,
  cudaLaunchAttributeClusterDimension
};
enum cudaFuncAttribute { cudaFuncAttributeMaxDynamicSharedMemorySize };
struct cudaFuncAttributes {};
struct cudaLaunchAttribute {
  cudaLaunchAttributeID id;
  struct {
    int programmaticStreamSerializationAllowed;
    struct {
      unsigned x, y, z;
    } clusterDim;
  } val;
};
struct CUstream_st;
struct cudaLaunchConfig_t {
  dim3 gridDim, blockDim;
  std::size_t dynamicSmemBytes;
  CUstream_st* stream;
  cudaLaunchAttribute* attrs;
  unsigned numAttrs;
};

inline cudaError_t cudaGetDevice(int* device) {
  *device = 0;
  return cudaSuccess;
}
/// An H200's.
inline cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int) {
  *value = attribute == cudaDevAttrComputeCapabilityMajor ? 9
           : attribute == cudaDevAttrMultiProcessorCount  ? 132
                                                          : 232448;
  return cudaSuccess;
}
template <typename Kernel>
cudaError_t cudaFuncSetAttribute(Kernel, cudaFuncAttribute, int) {
  return cudaSuccess;
}
template <typename Kernel>
cudaError_t cudaFuncGetAttributes(cudaFuncAttributes*, Kernel) {
  return cudaSuccess;
}
inline cudaError_t cudaGetLastError() {
  return cudaSuccess;
}
inline const char* cudaGetErrorString(cudaError_t) {
  return "";
}
template <typename... Parameters>
cudaError_t cudaLaunchKernelEx(const cudaLaunchConfig_t* config, void (*kernel)(Parameters...),
                               Parameters... arguments) {
  const unsigned cluster = config->numAttrs > 1 ? config->attrs[1].val.clusterDim.y : 1;
  cuda_on_cpu::launch(config->gridDim, config->blockDim, cluster, config->dynamicSmemBytes,
                      [&] { kernel(arguments...); });
  return cudaSuccess;
}
