// What the fused kernels compute for one row. These functions run on the host and on the device alike: kernels
// call them with a block of threads per row, CPU tests with a team of one.
#pragma once

#include <c10/util/BFloat16.h>

#include <cmath>
#include <cstdint>

#ifdef __CUDACC__
#define SHALLOWPI_HOST_DEVICE __host__ __device__ inline
#else
#define SHALLOWPI_HOST_DEVICE inline
#endif

namespace shallowpi::fused {

/// Values that are loaded and stored together.
template <typename T, int kCount>
struct alignas(sizeof(T) * kCount) Pack {
  T values[kCount];
};
/// How many values of a row a thread handles at a time: widths are multiples of it.
constexpr int kPack = 4;

template <int kCount = kPack, typename T>
SHALLOWPI_HOST_DEVICE Pack<T, kCount> load_pack(const T* from) {
  return *reinterpret_cast<const Pack<T, kCount>*>(from);
}
template <typename T, int kCount>
SHALLOWPI_HOST_DEVICE void store_pack(T* to, const Pack<T, kCount>& pack) {
  *reinterpret_cast<Pack<T, kCount>*>(to) = pack;
}

/// The threads that share a row.
struct Team {
  int rank = 0, size = 1;
  float* scratch = nullptr;  ///< device: 32 floats that the block shares

  /// Of all members' values; every member gets it.
  SHALLOWPI_HOST_DEVICE float sum(float value) const {
#ifdef __CUDA_ARCH__
    for (int offset = 16; offset > 0; offset /= 2) value += __shfl_xor_sync(~0u, value, offset);
    if (size == 32) return value;
    if (rank % 32 == 0) scratch[rank / 32] = value;
    __syncthreads();
    value = rank % 32 < size / 32 ? scratch[rank % 32] : 0;
    for (int offset = 16; offset > 0; offset /= 2) value += __shfl_xor_sync(~0u, value, offset);
#endif
    return value;
  }
};

/// One row of the residual stream, and the norm that reads it: Gemma's RMSNorm (no shift) or adaRMS.
template <typename Update, typename Out>
struct NormRow {
  const float* x;
  const Update* update;  ///< added to x, times `gate` where there is one; may be null
  const float* gate;
  float* sum;  ///< receives x + gate * update; null where there is no update
  const float *scale, *shift;
  Out* out;  ///< sum * rsqrt(mean(sum^2) + 1e-6) * (1 + scale) + shift
};

template <typename Update, typename Out>
SHALLOWPI_HOST_DEVICE void normalize(const Team& team, int width, const NormRow<Update, Out>& row) {
  constexpr float kEpsilon = 1e-6f;
  const int first = team.rank * kPack, stride = team.size * kPack;
  float squares = 0;
  for (int i = first; i < width; i += stride) {
    Pack<float, kPack> value = load_pack(row.x + i);
    if (row.update != nullptr) {
      const auto update = load_pack(row.update + i);
      for (int j = 0; j < kPack; ++j)
        value.values[j] += (row.gate != nullptr ? row.gate[i + j] : 1.0f) * float(update.values[j]);
      store_pack(row.sum + i, value);
    }
    for (const float v : value.values) squares += v * v;
  }
  const float inverse = 1 / sqrtf(team.sum(squares) / float(width) + kEpsilon);
  const float* from = row.update != nullptr ? row.sum : row.x;
  for (int i = first; i < width; i += stride) {
    const auto value = load_pack(from + i);
    Pack<Out, kPack> out;
    for (int j = 0; j < kPack; ++j) {
      const float shift = row.shift != nullptr ? row.shift[i + j] : 0.0f;
      out.values[j] = Out(value.values[j] * inverse * (1 + row.scale[i + j]) + shift);
    }
    store_pack(row.out + i, out);
  }
}

/// One token's projection: `heads` queries, a key, a value, each `head_dim` wide.
template <typename T>
struct RotaryRow {
  const T* qkv;
  const float *cos, *sin;  ///< [head_dim / 2] each
  T *q, *k, *v;
};

/// Rotates queries and key by split halves, and copies the value.
template <typename T>
SHALLOWPI_HOST_DEVICE void split_and_rotate(const Team& team, int heads, int head_dim, const RotaryRow<T>& row) {
  const int half = head_dim / 2, packs = half / kPack;
  for (int unit = team.rank; unit < (heads + 2) * packs; unit += team.size) {
    const int head = unit / packs, i = unit % packs * kPack;
    const T* from = row.qkv + head * head_dim + i;
    T* to = (head < heads ? row.q + head * head_dim : head == heads ? row.k : row.v) + i;
    Pack<T, kPack> low = load_pack(from), high = load_pack(from + half);
    for (int j = 0; j < kPack && head <= heads; ++j) {
      const float a = float(low.values[j]), b = float(high.values[j]), c = row.cos[i + j], s = row.sin[i + j];
      low.values[j] = T(a * c - b * s);
      high.values[j] = T(b * c + a * s);
    }
    store_pack(to, low);
    store_pack(to + half, high);
  }
}

/// GELU by its tanh approximation, written as x * sigmoid(2 u).
SHALLOWPI_HOST_DEVICE float gelu(float x) {
  const float u = 0.7978845608f * (x + 0.044715f * x * x * x);
  return x / (1 + expf(-2 * u));
}

/// gelu(gate) * up of packs [begin, end) of a row.
template <int kCount, typename T>
SHALLOWPI_HOST_DEVICE void gate_pack(const T* gate, const T* up, T* out) {
  Pack<T, kCount> value = load_pack<kCount>(gate);
  const auto factor = load_pack<kCount>(up);
  for (int j = 0; j < kCount; ++j)
    value.values[j] = T(gelu(float(value.values[j])) * float(factor.values[j]));
  store_pack(out, value);
}

}  // namespace shallowpi::fused
