// Launches of the fused kernels: plain pointers and sizes, so that the CUDA compiler needs nothing of
// LibTorch's operators. Everything is contiguous unless a stride says otherwise; strides count values.
#pragma once

#include <c10/util/BFloat16.h>

#include <cstdint>

// The runtime's own name for a stream, without its header.
struct CUstream_st;

namespace shallowpi::fused {

using CudaStream = CUstream_st*;

/// Whether the kernels are compiled for this GPU: they need compute capability 8.0.
bool runs_on(int device);
/// Whether blocks of the current GPU can read each other's shared memory (Hopper and later), so many at most.
bool has_clusters();
/// false, for tests: take the kernels of a GPU that has none. On at the start.
void allow_clusters(bool allowed);
constexpr std::int64_t kMaxCluster = 8;
using BFloat16 = c10::BFloat16;
constexpr int kWarp = 32;   ///< threads
constexpr int kVector = 8;  ///< bfloat16 values in 16 bytes

/// Values that come as the sum of `parts` rows, `stride` apart.
template <typename T>
struct Summands {
  const T* first = nullptr;
  int parts = 1;
  std::int64_t stride = 0;
};
/// One row of a residual stream, what is to be added to it, and the norm that reads it.
template <typename Value, typename Update, typename Out>
struct NormRow {
  const Value* x;
  Summands<Update> update;  ///< added to x, times `gate` where there is one; first may be null
  const float* gate;
  Value* sum;  ///< receives x + gate * update; null where there is no update
  Out* out;    ///< the norm
};

/// One token's projection: `heads` queries, a key, a value, each `head_dim` wide.
template <typename In, typename Out>
struct RotaryRow {
  Summands<In> qkv;
  const float *cos, *sin;  ///< [head_dim / 2] each
  Out *q, *k, *v;
};

/// Where the factors of row (b, s) start: broadcast dimensions have stride 0.
struct RowStrides {
  std::int64_t batch = 0, token = 0;
};

template <typename Update, typename Out>
struct RmsNormLaunch {
  NormRow<float, Update, Out> first;  ///< of row (0, 0)
  const float *first_scale, *first_shift;
  RowStrides scale, shift, gate;
  std::int64_t batch, tokens, width;
};
template <typename Update, typename Out>
void launch(const RmsNormLaunch<Update, Out>& work, CudaStream stream);

template <typename T>
struct LayerNormLaunch {
  NormRow<T, T, T> first;
  const T *weight, *bias;
  std::int64_t rows, width;
};
template <typename T>
void launch(const LayerNormLaunch<T>& work, CudaStream stream);

template <typename In, typename Out>
struct RotaryLaunch {
  RotaryRow<In, Out> first;
  std::int64_t batch, tokens, heads, head_dim;
  RowStrides cos, sin;
};
template <typename In, typename Out>
void launch(const RotaryLaunch<In, Out>& work, CudaStream stream);

template <typename T>
struct GateLaunch {
  const T* gate_up;  ///< [rows, 2 width]
  T* out;            ///< [rows, width]
  std::int64_t rows, width;
};
template <typename T>
void launch(const GateLaunch<T>& work, CudaStream stream);

/// Instead of x: the RMS norm of a residual stream [rows, inner]; shift may be null.
struct NormInput {
  const float *x = nullptr, *scale = nullptr, *shift = nullptr;
  RowStrides scale_at, shift_at;
};
/// `count` query heads, a key and a value per row, queries and key rotated.
struct HeadsOutput {
  BFloat16 *q = nullptr, *k = nullptr, *v = nullptr;  ///< [rows, count, head_dim], and twice [rows, head_dim]
  const float *cos = nullptr, *sin = nullptr;
  RowStrides cos_at, sin_at;
  int count = 0, head_dim = 0;
};
/// sum = x + gate * product, all [rows, columns]; gate may be null.
struct AddedOutput {
  const float *x = nullptr, *gate = nullptr;
  float* sum = nullptr;
  RowStrides gate_at;
};
/// A product with few rows, x weight^T, which is bound by reading the weight. It is cut into `parts` slices
/// of the inner dimension. One of the four outputs is given; `heads` comes with `norm`, and `gated` may.
/// `norm`, `heads` and `added` are for kFewRows; the last two need clusters, of `parts` blocks.
struct LinearLaunch {
  const BFloat16* x = nullptr;  ///< [rows, inner], unless `norm` is given
  NormInput norm{};
  const BFloat16* weight;  ///< [columns, inner]
  float* out = nullptr;    ///< [parts, rows, columns]: the slices' products are left for the next operation
  BFloat16* gated = nullptr;  ///< for one part: gelu(left half) * right half, [rows, columns / 2]
  HeadsOutput heads{};
  AddedOutput added{};
  std::int64_t rows, tokens;  ///< tokens: rows of one sample
  std::int64_t inner, columns, parts;
};
constexpr std::int64_t kMaxLinearRows = 64, kFewRows = 16;
/// The number of parts, `most` or less, that keeps the device busy; 0 where the sizes do not suit the kernel.
std::int64_t linear_parts(std::int64_t rows, std::int64_t inner, std::int64_t columns, std::int64_t most);
void launch(const LinearLaunch& work, CudaStream stream);

/// Where the matrices [rows, head_dim] of a batch are:
/// b = i * inner_count + j starts at i * outer + j * inner.
struct Placement {
  std::int64_t outer = 0, inner = 0, row = 0;
};
/// Attention of query rows to the first `lengths_b` prefix keys, and to their own tokens' keys.
/// In multi-query attention all heads' queries are rows of one matrix;
/// else the heads are `inner_count` matrices. Where there are own tokens, the prefix and `lengths_b` must be
/// older than the kernel before this one, which they need not wait for.
struct AttentionLaunch {
  const BFloat16* q;                    ///< [batch, rows, head_dim], `heads` rows per token
  const BFloat16 *prefix_k, *prefix_v;  ///< [batch, prefix, head_dim]
  const BFloat16 *own_k, *own_v;        ///< [batch, own, head_dim], contiguous; null where own is 0
  const std::int64_t* lengths_b;        ///< null: all of the prefix
  BFloat16* out;                        ///< [batch, rows, head_dim]
  Placement q_at, prefix_at, out_at;
  std::int64_t inner_count;
  /// For splits > 1 without clusters: [splits, batch * rows, head_dim] and [splits, batch * rows, 2].
  float *partial, *partial_sums;
  std::int64_t batch, rows, heads, head_dim, prefix, own, splits;
  bool first_token_alone;  ///< the first token sees of its own tokens only itself (pi0's state)
};
bool is_attention_head_dim(std::int64_t head_dim);
/// Into how many parts the keys should be split, so that the device is busy.
std::int64_t attention_splits(const AttentionLaunch& work);
void launch(const AttentionLaunch& work, CudaStream stream);

}  // namespace shallowpi::fused
