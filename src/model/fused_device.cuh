// What the files with kernels share.
#pragma once

#include <c10/util/Exception.h>

#include <algorithm>

#include "model/fused_launch.h"
#include "model/fused_ptx.cuh"

namespace shallowpi::fused {

/// The shared memory that a launch asks for.
extern __shared__ __align__(128) unsigned char dynamic_memory[];

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

}  // namespace shallowpi::fused
