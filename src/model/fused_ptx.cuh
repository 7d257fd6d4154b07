// All that the kernels need of PTX, and of a cluster's shared memory.
// tests/cuda_on_cpu has a CPU's version of this file, with which the kernels run in tests.
#pragma once

#include <cooperative_groups.h>
#include <cuda_bf16.h>

#include "model/fused_launch.h"

namespace shallowpi::fused {

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

/// 16 bytes that are read only once.
__device__ inline uint4 load_once(const BFloat16* from) {
  uint4 value;
  asm volatile("ld.global.nc.L1::no_allocate.v4.u32 {%0,%1,%2,%3}, [%4];"
               : "=r"(value.x), "=r"(value.y), "=r"(value.z), "=r"(value.w)
               : "l"(from));
  return value;
}

/// Four 8 x 8 matrices from shared memory; each lane gives the address of one of their rows.
__device__ inline void load_matrices(unsigned (&to)[4], const BFloat16* from) {
  const unsigned source = static_cast<unsigned>(__cvta_generic_to_shared(from));
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
               : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
               : "r"(source));
}
__device__ inline void load_transposed_matrices(unsigned (&to)[4], const BFloat16* from) {
  const unsigned source = static_cast<unsigned>(__cvta_generic_to_shared(from));
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
               : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
               : "r"(source));
}

/// Two floats as bfloat16 in one register, the first one low.
__device__ inline unsigned pack(float low, float high) {
  const __nv_bfloat162 both = __floats2bfloat162_rn(low, high);
  return *reinterpret_cast<const unsigned*>(&both);
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

}  // namespace shallowpi::fused
