// What the files with kernels share.
#pragma once

#include <c10/util/Exception.h>

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

/// Starts `kernel` so that from Hopper on it runs up to its wait_for_previous() while the kernel before it
/// ends.
template <typename... Parameters, typename... Arguments>
void start(void (*kernel)(Parameters...), dim3 grid, int threads, std::size_t shared_bytes, CudaStream stream,
           const Arguments&... arguments) {
  cudaLaunchAttribute overlap;
  overlap.id = cudaLaunchAttributeProgrammaticStreamSerialization;
  overlap.val.programmaticStreamSerializationAllowed = 1;
  cudaLaunchConfig_t config{};
  config.gridDim = grid;
  config.blockDim = dim3(static_cast<unsigned>(threads));
  config.dynamicSmemBytes = shared_bytes;
  config.stream = stream;
  config.attrs = &overlap;
  config.numAttrs = device_attribute(cudaDevAttrComputeCapabilityMajor) >= 9 ? 1 : 0;
  cudaError_t status = cudaSuccess;
  if (shared_bytes > 0)  // more than 48 KiB only where it is asked for
    status = cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                  static_cast<int>(shared_bytes));
  if (status == cudaSuccess) status = cudaLaunchKernelEx(&config, kernel, Parameters(arguments)...);
  TORCH_CHECK(status == cudaSuccess, "CUDA kernel with ", shared_bytes,
              " bytes of shared memory per block: ", cudaGetErrorString(status));
}

/// Every kernel calls it before it reads what another one wrote, and before it writes.
__device__ inline void wait_for_previous() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.wait;" ::: "memory");
  asm volatile("griddepcontrol.launch_dependents;");
#endif
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
