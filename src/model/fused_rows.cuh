// What the fused kernels compute for one row, with a team of threads.
#pragma once

#include "model/fused_launch.h"

namespace shallowpi::fused {

/// Values that are loaded and stored together.
template <typename T, int kCount>
struct alignas(sizeof(T) * kCount) Pack {
  T values[kCount];
};
/// How many values of a row a thread handles at a time: widths are multiples of it.
constexpr int kPack = 4;

template <int kCount = kPack, typename T>
__device__ Pack<T, kCount> load_pack(const T* from) {
  return *reinterpret_cast<const Pack<T, kCount>*>(from);
}
template <typename T, int kCount>
__device__ void store_pack(T* to, const Pack<T, kCount>& pack) {
  *reinterpret_cast<Pack<T, kCount>*>(to) = pack;
}

/// The threads that share a row.
struct Team {
  int rank = 0, size = 1;
  float* scratch = nullptr;  ///< 32 floats that the block shares; not for teams of a warp

  /// Of all members' values; every member gets it. Teams of a warp need no scratch, and a block may have
  /// several.
  __device__ float sum(float value) const {
    for (int offset = 16; offset > 0; offset /= 2) value += __shfl_xor_sync(~0u, value, offset);
    if (size == 32) return value;
    __syncthreads();  // scratch may still be read from the sum before
    if (rank % 32 == 0) scratch[rank / 32] = value;
    __syncthreads();
    value = rank % 32 < size / 32 ? scratch[rank % 32] : 0;
    for (int offset = 16; offset > 0; offset /= 2) value += __shfl_xor_sync(~0u, value, offset);
    return value;
  }
};

template <typename T>
__device__ Pack<float, kPack> load_sum(const Summands<T>& values, std::int64_t i) {
  Pack<float, kPack> sum{};
  for (int part = 0; part < values.parts; ++part) {
    const auto pack = load_pack(values.first + part * values.stride + i);
    for (int j = 0; j < kPack; ++j) sum.values[j] += float(pack.values[j]);
  }
  return sum;
}

/// The values of a row that one member of a team works on. It keeps the first of them, which are mostly all,
/// in registers, and reads the others again each time.
template <typename Value>
struct Share {
  const Value* x;
  int first, stride, width;
  Pack<Value, kPack> kept;

  /// Calls work(index, pack).
  template <typename Work>
  __device__ void for_each(const Work& work) const {
    if (first < width) work(first, kept);
    for (int i = first + stride; i < width; i += stride) work(i, load_pack(x + i));
  }
};

/// Writes the row's sum, and returns the team member's share of it.
template <typename Value, typename Update, typename Out>
__device__ Share<Value> add_update(const Team& team, int width, const NormRow<Value, Update, Out>& row) {
  const bool updated = row.update.first != nullptr;
  Share<Value> share{updated ? row.sum : row.x, team.rank * kPack, team.size * kPack, width, {}};
  for (int i = share.first; i < width; i += share.stride) {
    auto value = load_pack(row.x + i);
    if (updated) {
      const auto update = load_sum(row.update, i);
      for (int j = 0; j < kPack; ++j)
        value.values[j] =
            Value(float(value.values[j]) + (row.gate != nullptr ? row.gate[i + j] : 1.0f) * update.values[j]);
      store_pack(row.sum + i, value);
    }
    if (i == share.first) share.kept = value;
  }
  return share;  // every member reads only what it wrote itself
}

__device__ inline float squares_of(const Pack<float, kPack>& pack) {
  float squares = 0;
  for (const float v : pack.values) squares += v * v;
  return squares;
}

/// rsqrt(mean(x^2) + 1e-6), given the sum of all x^2.
__device__ inline float inverse_rms(float squares, std::int64_t width) {
  constexpr float kEpsilon = 1e-6f;
  return 1 / sqrtf(squares / float(width) + kEpsilon);
}

/// x * inverse * (1 + scale) + shift; shift may be null.
template <typename Out>
__device__ Pack<Out, kPack> scaled_and_shifted(const Pack<float, kPack>& x, float inverse, const float* scale,
                                               const float* shift) {
  const auto factor = load_pack(scale);
  const auto offset = shift != nullptr ? load_pack(shift) : Pack<float, kPack>{};
  Pack<Out, kPack> out;
  for (int j = 0; j < kPack; ++j)
    out.values[j] = Out(x.values[j] * inverse * (1 + factor.values[j]) + offset.values[j]);
  return out;
}

/// Gemma's RMSNorm (shift is null) or adaRMSNorm: x * rsqrt(mean(x^2) + 1e-6) * (1 + scale) + shift.
template <typename Update, typename Out>
__device__ void rms_norm(const Team& team, int width, const NormRow<float, Update, Out>& row,
                         const float* scale, const float* shift) {
  const auto x = add_update(team, width, row);
  float squares = 0;
  x.for_each([&](int, const Pack<float, kPack>& values) { squares += squares_of(values); });
  const float inverse = inverse_rms(team.sum(squares), width);
  x.for_each([&](int i, const Pack<float, kPack>& values) {
    store_pack(row.out + i,
               scaled_and_shifted<Out>(values, inverse, scale + i, shift != nullptr ? shift + i : nullptr));
  });
}

/// out = (x - mean) * rsqrt(variance + 1e-6) * weight + bias.
template <typename T>
__device__ void layer_norm(const Team& team, int width, const NormRow<T, T, T>& row, const T* weight,
                           const T* bias) {
  constexpr float kEpsilon = 1e-6f;
  const auto x = add_update(team, width, row);
  float sum = 0, squares = 0;
  x.for_each([&](int, const Pack<T, kPack>& values) {
    for (const T v : values.values) sum += float(v);
  });
  const float mean = team.sum(sum) / float(width);
  x.for_each([&](int, const Pack<T, kPack>& values) {
    for (const T v : values.values) squares += (float(v) - mean) * (float(v) - mean);
  });
  const float inverse = 1 / sqrtf(team.sum(squares) / float(width) + kEpsilon);
  x.for_each([&](int i, const Pack<T, kPack>& values) {
    const auto factor = load_pack(weight + i), offset = load_pack(bias + i);
    Pack<T, kPack> out;
    for (int j = 0; j < kPack; ++j)
      out.values[j] =
          T((float(values.values[j]) - mean) * inverse * float(factor.values[j]) + float(offset.values[j]));
    store_pack(row.out + i, out);
  });
}

/// Two values of a head that are half its width apart, rotated.
struct RotatedPair {
  float low, high;
};
__device__ inline RotatedPair rotate(float low, float high, float cos, float sin) {
  return {low * cos - high * sin, high * cos + low * sin};
}

/// Rotates queries and key by split halves, and copies the value.
template <typename In, typename Out>
__device__ void split_and_rotate(const Team& team, int heads, int head_dim, const RotaryRow<In, Out>& row) {
  const int half = head_dim / 2, packs = half / kPack;
  for (int unit = team.rank; unit < (heads + 2) * packs; unit += team.size) {
    const int head = unit / packs, i = unit % packs * kPack;
    const auto low = load_sum(row.qkv, head * head_dim + i),
               high = load_sum(row.qkv, head * head_dim + i + half);
    Pack<Out, kPack> first, second;
    for (int j = 0; j < kPack; ++j) {
      const bool is_value = head > heads;
      const float c = is_value ? 1.0f : row.cos[i + j], s = is_value ? 0.0f : row.sin[i + j];
      const RotatedPair pair = rotate(low.values[j], high.values[j], c, s);
      first.values[j] = Out(pair.low);
      second.values[j] = Out(pair.high);
    }
    Out* to = (head < heads ? row.q + head * head_dim : head == heads ? row.k : row.v) + i;
    store_pack(to, first);
    store_pack(to + half, second);
  }
}

/// GELU by its tanh approximation, written as x * sigmoid(2 u).
__device__ inline float gelu(float x) {
  const float u = 0.7978845608f * (x + 0.044715f * x * x * x);
  return x / (1 + expf(-2 * u));
}

/// gelu(gate) * up of one pack.
template <int kCount, typename T>
__device__ void gate_pack(const T* gate, const T* up, T* out) {
  Pack<T, kCount> value = load_pack<kCount>(gate);
  const auto factor = load_pack<kCount>(up);
  for (int j = 0; j < kCount; ++j)
    value.values[j] = T(gelu(float(value.values[j])) * float(factor.values[j]));
  store_pack(out, value);
}

}  // namespace shallowpi::fused
