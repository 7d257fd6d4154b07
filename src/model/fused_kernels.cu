// Thin launches of the row functions of fused_rows.h, and the attention kernel.
#include <mma.h>

#include <algorithm>
#include <stdexcept>
#include <string>

#include "model/fused_launch.h"

namespace shallowpi::fused {
namespace {

constexpr int kWarp = 32;

void check_launch(const char* kernel) {
  const cudaError_t status = cudaGetLastError();
  if (status != cudaSuccess)
    throw std::runtime_error(std::string(kernel) + " kernel: " + cudaGetErrorString(status));
}

/// A block's threads for a row of so many packs.
int team_size(std::int64_t packs, int most) {
  return static_cast<int>(std::clamp<std::int64_t>((packs + kWarp - 1) / kWarp * kWarp, kWarp, most));
}

__device__ Team block_team() {
  __shared__ float scratch[kWarp];
  return {int(threadIdx.x), int(blockDim.x), scratch};
}

__device__ const float* at(const float* first, RowStrides strides, int b, int s) {
  return first == nullptr ? nullptr : first + b * strides.batch + s * strides.token;
}

template <typename Update, typename Out>
__global__ void normalize_kernel(NormLaunch<Update, Out> work) {
  const int s = blockIdx.x, b = blockIdx.y;
  const std::int64_t offset = (b * work.tokens + s) * work.width;
  NormRow<Update, Out> row = work.first;
  row.x += offset;
  if (row.update != nullptr) {
    row.update += offset;
    row.sum += offset;
  }
  row.gate = at(row.gate, work.gate, b, s);
  row.scale = at(row.scale, work.scale, b, s);
  row.shift = at(row.shift, work.shift, b, s);
  row.out += offset;
  normalize(block_team(), int(work.width), row);
}

template <typename T>
__global__ void rotary_kernel(RotaryLaunch<T> work) {
  const int s = blockIdx.x, b = blockIdx.y;
  const std::int64_t key = (b * work.padded_tokens + s) * work.head_dim;
  RotaryRow<T> row = work.first;
  row.k += key;
  row.v += key;
  if (s >= work.tokens) {
    for (int i = threadIdx.x; i < work.head_dim; i += blockDim.x) row.k[i] = row.v[i] = T(0.0f);
    return;
  }
  const std::int64_t token = b * work.tokens + s;
  row.qkv += token * (work.heads + 2) * work.head_dim;
  row.q += token * work.heads * work.head_dim;
  row.cos = at(row.cos, work.cos, b, s);
  row.sin = at(row.sin, work.sin, b, s);
  split_and_rotate(block_team(), int(work.heads), int(work.head_dim), row);
}

/// The widest load of a type.
template <typename T>
constexpr int kWide = 16 / sizeof(T);

template <typename T>
__global__ void gate_kernel(GateLaunch<T> work) {
  const std::int64_t i = (blockIdx.y * std::int64_t(blockDim.x) + threadIdx.x) * kWide<T>;
  if (i >= work.width) return;
  const T* gate = work.gate_up + blockIdx.x * 2 * work.width + i;
  gate_pack<kWide<T>>(gate, gate + work.width, work.out + blockIdx.x * work.width + i);
}

// ---- attention

constexpr int kTile = int(kKeyTile);
constexpr int kThreads = 512, kWarps = kThreads / kWarp;

namespace wmma = nvcuda::wmma;
using A = wmma::fragment<wmma::matrix_a, kTile, kTile, kTile, __nv_bfloat16, wmma::row_major>;
using Transposed = wmma::fragment<wmma::matrix_b, kTile, kTile, kTile, __nv_bfloat16, wmma::col_major>;
using B = wmma::fragment<wmma::matrix_b, kTile, kTile, kTile, __nv_bfloat16, wmma::row_major>;
using Sum = wmma::fragment<wmma::accumulator, kTile, kTile, kTile, float>;

__device__ const __nv_bfloat16* native(const BFloat16* pointer) {
  return reinterpret_cast<const __nv_bfloat16*>(pointer);
}

int tiles_of(std::int64_t keys) {
  return static_cast<int>((keys + kTile - 1) / kTile);
}

/// The shared memory of a block of `rows` query rows: the queries, the scores in float32, the probabilities.
/// Rows are padded by 16 bytes, so that their starts fall into different banks.
struct SharedLayout {
  int q_pitch, score_pitch, probability_pitch;
  std::size_t score_offset, probability_offset, bytes;

  SharedLayout(int rows, int tiles, int head_dim)
      : q_pitch(head_dim + 8), score_pitch(tiles * kTile + 4), probability_pitch(tiles * kTile + 8) {
    const std::size_t q = sizeof(BFloat16) * rows * q_pitch;
    // The output leaves through the scores' memory: a tile of every warp at a time.
    const std::size_t scores = sizeof(float) * std::max(rows * score_pitch, kWarps * rows * kTile);
    score_offset = (q + 127) / 128 * 128;
    probability_offset = score_offset + (scores + 127) / 128 * 128;
    bytes = probability_offset + sizeof(BFloat16) * rows * probability_pitch;
  }
};

/// Every block computes `kRowTiles` * 16 query rows against all keys. Its warps share the key tiles for the
/// scores and the columns of the values for the output.
template <int kRowTiles>
__global__ void __launch_bounds__(kThreads, 1) attention_kernel(AttentionLaunch work, SharedLayout layout) {
  constexpr int kRows = kRowTiles * kTile;
  extern __shared__ __align__(128) unsigned char shared[];
  __nv_bfloat16* q = reinterpret_cast<__nv_bfloat16*>(shared);
  float* scores = reinterpret_cast<float*>(shared + layout.score_offset);
  __nv_bfloat16* probabilities = reinterpret_cast<__nv_bfloat16*>(shared + layout.probability_offset);

  const int warp = threadIdx.x / kWarp, lane = threadIdx.x % kWarp, head_dim = int(work.head_dim);
  const int b = blockIdx.y;
  // The last block goes back so far that it is full; both write the same values.
  const int first_row = int(min(std::int64_t(blockIdx.x) * kRows, work.rows - kRows));
  const std::int64_t row_offset = (b * work.rows + first_row) * work.head_dim;
  const int length = work.lengths_b == nullptr ? int(work.prefix) : int(work.lengths_b[b]);
  const int prefix_tiles = (int(work.prefix) + kTile - 1) / kTile, own_tiles = (int(work.own) + kTile - 1) / kTile;
  const int used_prefix_tiles = (length + kTile - 1) / kTile;  // the others hold no key that counts
  const int used_tiles = used_prefix_tiles + own_tiles;
  const auto tile_of = [&](int used) {
    return used < used_prefix_tiles ? used : used - used_prefix_tiles + prefix_tiles;
  };
  const auto keys_of = [&](int tile, const BFloat16* prefix, const BFloat16* own) {
    return tile < prefix_tiles ? native(prefix) + b * work.prefix_stride + std::int64_t(tile) * kTile * head_dim
                               : native(own) + b * work.own_stride +
                                     std::int64_t(tile - prefix_tiles) * kTile * head_dim;
  };

  constexpr int kVector = 8;  // bfloat16 values in 16 bytes
  using Vector = Pack<BFloat16, kVector>;
  for (int i = threadIdx.x * kVector; i < kRows * head_dim; i += kThreads * kVector)
    *reinterpret_cast<Vector*>(q + i / head_dim * layout.q_pitch + i % head_dim) =
        load_pack<kVector>(work.q + row_offset + i);
  __syncthreads();

  for (int used = warp; used < used_tiles; used += kWarps) {
    const int tile = tile_of(used);
    const __nv_bfloat16* k = keys_of(tile, work.prefix_k, work.own_k);
    Sum sums[kRowTiles];
    for (Sum& sum : sums) wmma::fill_fragment(sum, 0.0f);
#pragma unroll 8
    for (int d = 0; d < head_dim; d += kTile) {
      Transposed key;
      wmma::load_matrix_sync(key, k + d, head_dim);
#pragma unroll
      for (int r = 0; r < kRowTiles; ++r) {
        A query;
        wmma::load_matrix_sync(query, q + r * kTile * layout.q_pitch + d, layout.q_pitch);
        wmma::mma_sync(sums[r], query, key, sums[r]);
      }
    }
#pragma unroll
    for (int r = 0; r < kRowTiles; ++r)
      wmma::store_matrix_sync(scores + r * kTile * layout.score_pitch + tile * kTile, sums[r], layout.score_pitch,
                              wmma::mem_row_major);
  }
  __syncthreads();

  const float scale = rsqrtf(float(head_dim));
  const int own_column = prefix_tiles * kTile, columns = own_column + own_tiles * kTile;
  for (int row = warp; row < kRows; row += kWarps) {
    const int token = (first_row + row) / int(work.heads);
    const int own_keys = work.first_token_alone && token == 0 ? 1 : int(work.own);
    const auto counts = [&](int column) {
      return column < own_column ? column < length : column - own_column < own_keys;
    };
    const float* score = scores + row * layout.score_pitch;
    float largest = -INFINITY, total = 0;
    for (int c = lane; c < columns; c += kWarp)
      if (counts(c)) largest = fmaxf(largest, score[c]);
    for (int offset = 16; offset > 0; offset /= 2)
      largest = fmaxf(largest, __shfl_xor_sync(~0u, largest, offset));
    for (int c = lane; c < columns; c += kWarp)
      if (counts(c)) total += __expf(scale * (score[c] - largest));
    for (int offset = 16; offset > 0; offset /= 2) total += __shfl_xor_sync(~0u, total, offset);
    __nv_bfloat16* probability = probabilities + row * layout.probability_pitch;
    for (int c = lane; c < columns; c += kWarp)
      probability[c] = __float2bfloat16(counts(c) ? __expf(scale * (score[c] - largest)) / total : 0.0f);
  }
  __syncthreads();

  float* patch = scores + warp * kRows * kTile;
  for (int column = warp * kTile; column < head_dim; column += kWarps * kTile) {
    Sum sums[kRowTiles];
    for (Sum& sum : sums) wmma::fill_fragment(sum, 0.0f);
#pragma unroll 8
    for (int used = 0; used < used_tiles; ++used) {
      const int tile = tile_of(used);
      B value;
      wmma::load_matrix_sync(value, keys_of(tile, work.prefix_v, work.own_v) + column, head_dim);
#pragma unroll
      for (int r = 0; r < kRowTiles; ++r) {
        A probability;
        wmma::load_matrix_sync(probability, probabilities + r * kTile * layout.probability_pitch + tile * kTile,
                               layout.probability_pitch);
        wmma::mma_sync(sums[r], probability, value, sums[r]);
      }
    }
#pragma unroll
    for (int r = 0; r < kRowTiles; ++r)
      wmma::store_matrix_sync(patch + r * kTile * kTile, sums[r], kTile, wmma::mem_row_major);
    __syncwarp();
    for (int i = lane * kVector; i < kRows * kTile; i += kWarp * kVector) {
      Vector out;
      for (int j = 0; j < kVector; ++j) out.values[j] = BFloat16(patch[i + j]);
      store_pack(work.out + row_offset + i / kTile * work.head_dim + column + i % kTile, out);
    }
    __syncwarp();
  }
}

int device_attribute(cudaDeviceAttr attribute) {
  int device = 0, value = 0;
  cudaGetDevice(&device);
  cudaDeviceGetAttribute(&value, attribute, device);
  return value;
}

SharedLayout layout_of(const AttentionLaunch& work, int row_tiles) {
  return {row_tiles * kTile, tiles_of(work.prefix) + tiles_of(work.own), static_cast<int>(work.head_dim)};
}

bool fits(const AttentionLaunch& work, int row_tiles) {
  return work.rows >= row_tiles * kTile && layout_of(work, row_tiles).bytes <=
             static_cast<std::size_t>(device_attribute(cudaDevAttrMaxSharedMemoryPerBlockOptin));
}

template <int kRowTiles>
void launch_attention(const AttentionLaunch& work, Stream stream) {
  const SharedLayout layout = layout_of(work, kRowTiles);
  cudaFuncSetAttribute(attention_kernel<kRowTiles>, cudaFuncAttributeMaxDynamicSharedMemorySize,
                       static_cast<int>(layout.bytes));
  constexpr int kRows = kRowTiles * kTile;
  const dim3 grid(unsigned((work.rows + kRows - 1) / kRows), unsigned(work.batch));
  attention_kernel<kRowTiles><<<grid, kThreads, layout.bytes, stream>>>(work, layout);
}

}  // namespace

template <typename Update, typename Out>
void launch(const NormLaunch<Update, Out>& work, Stream stream) {
  const dim3 grid(static_cast<unsigned>(work.tokens), static_cast<unsigned>(work.batch));
  normalize_kernel<<<grid, team_size(work.width / kPack, 512), 0, stream>>>(work);
  check_launch("norm");
}
template void launch(const NormLaunch<float, float>&, Stream);
template void launch(const NormLaunch<BFloat16, float>&, Stream);
template void launch(const NormLaunch<BFloat16, BFloat16>&, Stream);

template <typename T>
void launch(const RotaryLaunch<T>& work, Stream stream) {
  const dim3 grid(static_cast<unsigned>(work.padded_tokens), static_cast<unsigned>(work.batch));
  const std::int64_t packs = (work.heads + 2) * work.head_dim / 2 / kPack;
  rotary_kernel<<<grid, team_size(packs, 512), 0, stream>>>(work);
  check_launch("rotary");
}
template void launch(const RotaryLaunch<float>&, Stream);
template void launch(const RotaryLaunch<BFloat16>&, Stream);

template <typename T>
void launch(const GateLaunch<T>& work, Stream stream) {
  const std::int64_t packs = work.width / kWide<T>;
  const int threads = team_size(packs, 256);
  const dim3 grid(static_cast<unsigned>(work.rows), static_cast<unsigned>((packs + threads - 1) / threads));
  gate_kernel<<<grid, threads, 0, stream>>>(work);
  check_launch("gated GELU");
}
template void launch(const GateLaunch<float>&, Stream);
template void launch(const GateLaunch<BFloat16>&, Stream);

bool can_launch(const AttentionLaunch& work) {
  return fits(work, 1);
}

void launch(const AttentionLaunch& work, Stream stream) {
  // As few rows per block as give every multiprocessor a block; more rows read the keys less often.
  const std::int64_t processors = device_attribute(cudaDevAttrMultiProcessorCount);
  const auto enough = [&](int row_tiles) { return work.batch * work.rows <= processors * row_tiles * kTile; };
  if (enough(1) || !fits(work, 2)) {
    launch_attention<1>(work, stream);
  } else if (enough(2) || !fits(work, 3)) {
    launch_attention<2>(work, stream);
  } else {
    launch_attention<3>(work, stream);
  }
  check_launch("attention");
}

}  // namespace shallowpi::fused
