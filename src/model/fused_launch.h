// Launches of the fused kernels: plain pointers and sizes, so that the CUDA compiler needs nothing of LibTorch's
// operators. Everything is contiguous unless a stride says otherwise; strides count values.
#pragma once

#include "model/fused_rows.h"

// The runtime's own name for a stream, without its header.
struct CUstream_st;

namespace shallowpi::fused {

using Stream = CUstream_st*;
using BFloat16 = c10::BFloat16;

/// Where the factors of row (b, s) start: broadcast dimensions have stride 0.
struct RowStrides {
  std::int64_t batch = 0, token = 0;
};

template <typename Update, typename Out>
struct NormLaunch {
  NormRow<Update, Out> first;  ///< of row (0, 0)
  RowStrides scale, shift, gate;
  std::int64_t batch, tokens, width;
};
template <typename Update, typename Out>
void launch(const NormLaunch<Update, Out>& work, Stream stream);

template <typename T>
struct RotaryLaunch {
  RotaryRow<T> first;
  std::int64_t batch, tokens, heads, head_dim;
  std::int64_t padded_tokens;  ///< rows of k and v per sample; those behind `tokens` become zeros
  RowStrides cos, sin;
};
template <typename T>
void launch(const RotaryLaunch<T>& work, Stream stream);

template <typename T>
struct GateLaunch {
  const T* gate_up;  ///< [rows, 2 width]
  T* out;            ///< [rows, width]
  std::int64_t rows, width;
};
template <typename T>
void launch(const GateLaunch<T>& work, Stream stream);

/// Keys and values in the attention kernel come in tiles of this many; buffers hold whole tiles.
constexpr std::int64_t kKeyTile = 16;

/// Multi-query attention: every query row attends to the first `lengths_b` prefix keys, and to its own tokens'.
struct AttentionLaunch {
  const BFloat16* q;                   ///< [batch, rows, head_dim], `heads` rows per token
  const BFloat16 *prefix_k, *prefix_v;  ///< [batch, prefix, head_dim]
  const BFloat16 *own_k, *own_v;        ///< [batch, own, head_dim]; null where own is 0
  const std::int64_t* lengths_b;        ///< null: all of the prefix
  BFloat16* out;                        ///< [batch, rows, head_dim]
  std::int64_t batch, rows, heads, head_dim, prefix, own;
  std::int64_t prefix_stride, own_stride;  ///< from sample to sample
  bool first_token_alone;  ///< the first token sees of its own tokens only itself (pi0's state)
};
/// Whether the device has the memory for so many keys.
bool can_launch(const AttentionLaunch& work);
void launch(const AttentionLaunch& work, Stream stream);

}  // namespace shallowpi::fused
