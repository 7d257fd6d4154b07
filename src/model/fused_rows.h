// What the fused kernels compute for one row. These functions run on the host and on the device alike:
// kernels call them with a block of threads per row, CPU tests with a team of one.
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
    __syncthreads();  // scratch may still be read from the sum before
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

/// Values that come as the sum of `parts` rows, `stride` apart.
template <typename T>
struct Summands {
  const T* first = nullptr;
  int parts = 1;
  std::int64_t stride = 0;
};
template <typename T>
SHALLOWPI_HOST_DEVICE Pack<float, kPack> load_sum(const Summands<T>& values, std::int64_t i) {
  Pack<float, kPack> sum{};
  for (int part = 0; part < values.parts; ++part) {
    const auto pack = load_pack(values.first + part * values.stride + i);
    for (int j = 0; j < kPack; ++j) sum.values[j] += float(pack.values[j]);
  }
  return sum;
}

/// One row of a residual stream, what is to be added to it, and the norm that reads it.
template <typename Value, typename Update, typename Out>
struct NormRow {
  const Value* x;
  Summands<Update> update;  ///< added to x, times `gate` where there is one; first may be null
  const float* gate;
  Value* sum;  ///< receives x + gate * update; null where there is no update
  Out* out;    ///< the norm
};

/// Writes the row's sum, and returns where it is.
template <typename Value, typename Update, typename Out>
SHALLOWPI_HOST_DEVICE const Value* add_update(const Team& team, int width,
                                              const NormRow<Value, Update, Out>& row) {
  if (row.update.first == nullptr) return row.x;
  for (int i = team.rank * kPack; i < width; i += team.size * kPack) {
    auto value = load_pack(row.x + i);
    const auto update = load_sum(row.update, i);
    for (int j = 0; j < kPack; ++j)
      value.values[j] =
          Value(float(value.values[j]) + (row.gate != nullptr ? row.gate[i + j] : 1.0f) * update.values[j]);
    store_pack(row.sum + i, value);
  }
  return row.sum;  // every thread reads only what it wrote itself
}

/// out = x * rsqrt(mean(x^2) + 1e-6) * (1 + scale) + shift: Gemma's RMSNorm (shift is null) or adaRMS.
template <typename Update, typename Out>
SHALLOWPI_HOST_DEVICE void rms_norm(const Team& team, int width, const NormRow<float, Update, Out>& row,
                                    const float* scale, const float* shift) {
  constexpr float kEpsilon = 1e-6f;
  const float* x = add_update(team, width, row);
  const int first = team.rank * kPack, stride = team.size * kPack;
  float squares = 0;
  for (int i = first; i < width; i += stride)
    for (const float v : load_pack(x + i).values) squares += v * v;
  const float inverse = 1 / sqrtf(team.sum(squares) / float(width) + kEpsilon);
  for (int i = first; i < width; i += stride) {
    const auto value = load_pack(x + i), factor = load_pack(scale + i);
    Pack<Out, kPack> out;
    for (int j = 0; j < kPack; ++j)
      out.values[j] =
          Out(value.values[j] * inverse * (1 + factor.values[j]) + (shift != nullptr ? shift[i + j] : 0.0f));
    store_pack(row.out + i, out);
  }
}

/// out = (x - mean) * rsqrt(variance + 1e-6) * weight + bias.
template <typename T>
SHALLOWPI_HOST_DEVICE void layer_norm(const Team& team, int width, const NormRow<T, T, T>& row,
                                      const T* weight, const T* bias) {
  constexpr float kEpsilon = 1e-6f;
  const T* x = add_update(team, width, row);
  const int first = team.rank * kPack, stride = team.size * kPack;
  float sum = 0, squares = 0;
  for (int i = first; i < width; i += stride)
    for (const T v : load_pack(x + i).values) sum += float(v);
  const float mean = team.sum(sum) / float(width);
  for (int i = first; i < width; i += stride)
    for (const T v : load_pack(x + i).values) squares += (float(v) - mean) * (float(v) - mean);
  const float inverse = 1 / sqrtf(team.sum(squares) / float(width) + kEpsilon);
  for (int i = first; i < width; i += stride) {
    auto value = load_pack(x + i);
    const auto factor = load_pack(weight + i), offset = load_pack(bias + i);
    for (int j = 0; j < kPack; ++j)
      value.values[j] =
          T((float(value.values[j]) - mean) * inverse * float(factor.values[j]) + float(offset.values[j]));
    store_pack(row.out + i, value);
  }
}

/// One token's projection: `heads` queries, a key, a value, each `head_dim` wide.
template <typename In, typename Out>
struct RotaryRow {
  Summands<In> qkv;
  const float *cos, *sin;  ///< [head_dim / 2] each
  Out *q, *k, *v;
};

/// Rotates queries and key by split halves, and copies the value.
template <typename In, typename Out>
SHALLOWPI_HOST_DEVICE void split_and_rotate(const Team& team, int heads, int head_dim,
                                            const RotaryRow<In, Out>& row) {
  const int half = head_dim / 2, packs = half / kPack;
  for (int unit = team.rank; unit < (heads + 2) * packs; unit += team.size) {
    const int head = unit / packs, i = unit % packs * kPack;
    const auto low = load_sum(row.qkv, head * head_dim + i),
               high = load_sum(row.qkv, head * head_dim + i + half);
    Pack<Out, kPack> first, second;
    for (int j = 0; j < kPack; ++j) {
      const bool is_value = head > heads;
      const float c = is_value ? 1.0f : row.cos[i + j], s = is_value ? 0.0f : row.sin[i + j];
      first.values[j] = Out(low.values[j] * c - high.values[j] * s);
      second.values[j] = Out(high.values[j] * c + low.values[j] * s);
    }
    Out* to = (head < heads ? row.q + head * head_dim : head == heads ? row.k : row.v) + i;
    store_pack(to, first);
    store_pack(to + half, second);
  }
}

/// GELU by its tanh approximation, written as x * sigmoid(2 u).
SHALLOWPI_HOST_DEVICE float gelu(float x) {
  const float u = 0.7978845608f * (x + 0.044715f * x * x * x);
  return x / (1 + expf(-2 * u));
}

/// gelu(gate) * up of one pack.
template <int kCount, typename T>
SHALLOWPI_HOST_DEVICE void gate_pack(const T* gate, const T* up, T* out) {
  Pack<T, kCount> value = load_pack<kCount>(gate);
  const auto factor = load_pack<kCount>(up);
  for (int j = 0; j < kCount; ++j)
    value.values[j] = T(gelu(float(value.values[j])) * float(factor.values[j]));
  store_pack(out, value);
}

}  // namespace shallowpi::fused
