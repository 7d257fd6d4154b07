// What the files with kernels share.
#pragma once

#include <c10/util/Exception.h>
#include <cooperative_groups.h>

#include <algorithm>

#include "model/fused_launch.h"

namespace shallowpi::fused {

constexpr int kWarp = 32;
constexpr int kVector = 8;  // bfloat16 values in 16 bytes

inline int device_attribute(cudaDeviceAttr attribute) {
  int device = 0, value = 0;
  cudaGetDevice(&device);
  cudaDeviceGetAttribute(&value, attribute, device);
  return value;
}

/// How a kernel is spread over the device.
struct Layout {
  dim3 grid;
  int threads;
  std::size_t shared_bytes = 0;
  std::int64_t cluster = 1;  ///< so many blocks along y read each other's shared memory; 1 before Hopper
};

/// Starts `kernel` so that from Hopper on it runs up to its wait_for_previous() while the kernel before it
/// ends.
template <typename... Parameters, typename... Arguments>
void start(void (*kernel)(Parameters...), const Layout& layout, CudaStream stream,
           const Arguments&... arguments) {
  cudaLaunchAttribute attributes[2];
  attributes[0].id = cudaLaunchAttributeProgrammaticStreamSerialization;
  attributes[0].val.programmaticStreamSerializationAllowed = 1;
  attributes[1].id = cudaLaunchAttributeClusterDimension;
  attributes[1].val.clusterDim = {1, static_cast<unsigned>(layout.cluster), 1};
  cudaLaunchConfig_t config{};
  config.gridDim = layout.grid;
  config.blockDim = dim3(static_cast<unsigned>(layout.threads));
  config.dynamicSmemBytes = layout.shared_bytes;
  config.stream = stream;
  config.attrs = attributes;
  const bool overlaps = device_attribute(cudaDevAttrComputeCapabilityMajor) >= 9;
  config.numAttrs = !overlaps ? 0 : layout.cluster > 1 ? 2 : 1;
  cudaError_t status = cudaSuccess;
  if (layout.shared_bytes > 0)  // more than 48 KiB only where it is asked for
    status = cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                  static_cast<int>(layout.shared_bytes));
  if (status == cudaSuccess) status = cudaLaunchKernelEx(&config, kernel, Parameters(arguments)...);
  TORCH_CHECK(status == cudaSuccess, "CUDA kernel with ", layout.shared_bytes,
              " bytes of shared memory per block: ", cudaGetErrorString(status));
}

/// `offset` values on from where there is something.
template <typename T>
__host__ __device__ T* at(T* first, std::int64_t offset) {
  return first == nullptr ? nullptr : first + offset;
}
__device__ inline const float* at(const float* first, RowStrides strides, std::int64_t b, std::int64_t s) {
  return at(first, b * strides.batch + s * strides.token);
}

/// Waits until all blocks of the cluster are here and see what the others wrote.
__device__ inline void sync_cluster() {
#if __CUDA_ARCH__ >= 900
  cooperative_groups::this_cluster().sync();
#endif
}
/// Where another block of the cluster has its `mine`.
template <typename T>
__device__ const T* of_block(T* mine, int rank) {
#if __CUDA_ARCH__ >= 900
  return cooperative_groups::this_cluster().map_shared_rank(mine, static_cast<unsigned>(rank));
#else
  return mine;
#endif
}

/// Every kernel calls it before it reads what another one wrote, and before it writes.
__device__ inline void wait_for_previous() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.wait;" ::: "memory");
  asm volatile("griddepcontrol.launch_dependents;");
#endif
}

/// Brings the line of memory that holds `from` into the cache.
__device__ inline void prefetch(const void* from) {
  asm volatile("prefetch.global.L2 [%0];" ::"l"(from));
}

/// 16 bytes from global to shared memory without passing through registers; zeros where not `valid`.
__device__ inline void copy_async(void* to, const void* from, bool valid) {
  const unsigned target = static_cast<unsigned>(__cvta_generic_to_shared(to));
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(target), "l"(from), "r"(valid ? 16 : 0)
               : "memory");
}
__device__ inline void commit_copies() {
  asm volatile("cp.async.commit_group;" ::: "memory");
}
/// Waits until at most `kPending` of the committed groups are under way.
template <int kPending>
__device__ void wait_for_copies() {
  asm volatile("cp.async.wait_group %0;" ::"n"(kPending) : "memory");
}

/// c += a b for a 16 x 16 tile a and a 16 x 8 tile b of bfloat16, in the registers' layout of PTX's
/// mma.m16n8k16.
__device__ inline void multiply(float (&c)[4], const unsigned (&a)[4], unsigned b0, unsigned b1) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, "
      "{%0,%1,%2,%3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

}  // namespace shallowpi::fused
