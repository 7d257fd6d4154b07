// A CPU's version of src/model/fused_ptx.cuh.
#pragma once

#include "cuda_on_cpu.h"
#include "model/fused_launch.h"

namespace shallowpi::fused {

inline void wait_for_previous() {}
inline void prefetch(const void*) {}

inline void copy_async(void* to, const void* from, bool valid) {
  cuda_on_cpu::copy_later(to, from, valid);
}
inline void commit_copies() {
  cuda_on_cpu::commit_copies();
}
template <int kPending>
void wait_for_copies() {
  cuda_on_cpu::wait_for_copies(kPending);
}

inline uint4 load_once(const BFloat16* from) {
  return *reinterpret_cast<const uint4*>(from);
}

/// Value 0 or 1 of a register.
inline float half_of(std::uint32_t word, int which) {
  return float(BFloat16(static_cast<std::uint16_t>(word >> (16 * which)), BFloat16::from_bits()));
}
inline unsigned join(BFloat16 low, BFloat16 high) {
  return low.x | unsigned(high.x) << 16;
}
inline unsigned pack(float low, float high) {
  return join(BFloat16(low), BFloat16(high));
}

inline void multiply(float (&c)[4], const unsigned (&a)[4], unsigned b0, unsigned b1) {
  const std::uint32_t mine[] = {a[0], a[1], a[2], a[3], b0, b1};
  const cuda_on_cpu::Words* all = cuda_on_cpu::exchange(mine, 6);
  const int lane = threadIdx.x % kWarp, row = lane / 4, column = lane % 4 * 2;
  for (int k = 0; k < 16; ++k) {
    const int holder = k % 8 / 2,
              late = k / 8;  // the lane of its row that has inner value k, and in which register
    for (int j = 0; j < 2; ++j) {
      const float b = half_of(all[(column + j) * 4 + holder][4 + late], k % 2);
      for (int lower = 0; lower < 2; ++lower)
        c[2 * lower + j] += half_of(all[row * 4 + holder][2 * late + lower], k % 2) * b;
    }
  }
}

/// The address of row `row` of matrix `m`, which lane 8 m + row gave.
inline const BFloat16* matrix_row(const cuda_on_cpu::Words* all, int m, int row) {
  const BFloat16* from;
  std::memcpy(&from, all[8 * m + row], sizeof from);
  return from;
}
inline const cuda_on_cpu::Words* exchange_addresses(const BFloat16* from) {
  std::uint32_t words[2];
  static_assert(sizeof words == sizeof from);
  std::memcpy(words, &from, sizeof from);
  return cuda_on_cpu::exchange(words, 2);
}
inline void load_matrices(unsigned (&to)[4], const BFloat16* from) {
  const cuda_on_cpu::Words* all = exchange_addresses(from);
  const int lane = threadIdx.x % kWarp;
  for (int m = 0; m < 4; ++m) {
    const BFloat16* row = matrix_row(all, m, lane / 4) + lane % 4 * 2;
    to[m] = join(row[0], row[1]);
  }
}
inline void load_transposed_matrices(unsigned (&to)[4], const BFloat16* from) {
  const cuda_on_cpu::Words* all = exchange_addresses(from);
  const int lane = threadIdx.x % kWarp, row = lane % 4 * 2, column = lane / 4;
  for (int m = 0; m < 4; ++m)
    to[m] = join(matrix_row(all, m, row)[column], matrix_row(all, m, row + 1)[column]);
}

inline void sync_cluster() {
  cuda_on_cpu::sync_cluster();
}
template <typename T>
const T* of_block(T* mine, int rank) {
  return static_cast<const T*>(cuda_on_cpu::in_block(mine, static_cast<unsigned>(rank)));
}

}  // namespace shallowpi::fused
