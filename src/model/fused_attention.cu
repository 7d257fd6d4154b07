// Attention: FlashAttention's online softmax, with the keys split over blocks where there are few queries
// (flash decoding).
#include "model/fused_device.cuh"

namespace shallowpi::fused {
namespace {

constexpr int kWarps = 4, kThreads = kWarps * kWarp;
constexpr int kRows = 16 * kWarps;  // query rows of a block, 16 of each warp
constexpr int kKeys = 32;           // keys that a block handles at a time

/// Four 8 x 8 matrices from shared memory; each lane gives the address of one of their rows.
__device__ void load_matrices(unsigned (&to)[4], const BFloat16* from) {
  const unsigned source = static_cast<unsigned>(__cvta_generic_to_shared(from));
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
               : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
               : "r"(source));
}
__device__ void load_transposed_matrices(unsigned (&to)[4], const BFloat16* from) {
  const unsigned source = static_cast<unsigned>(__cvta_generic_to_shared(from));
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
               : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
               : "r"(source));
}

/// Two floats as bfloat16 in one register, the first one low.
__device__ unsigned pack(float low, float high) {
  const __nv_bfloat162 both = __floats2bfloat162_rn(low, high);
  return *reinterpret_cast<const unsigned*>(&both);
}

/// Over the four lanes that hold a row.
__device__ float row_max(float value) {
  value = fmaxf(value, __shfl_xor_sync(~0u, value, 1));
  return fmaxf(value, __shfl_xor_sync(~0u, value, 2));
}
__device__ float row_sum(float value) {
  value += __shfl_xor_sync(~0u, value, 1);
  return value + __shfl_xor_sync(~0u, value, 2);
}

/// Keys of one stretch that a block handles together: where they are, and how many there are.
struct Chunk {
  std::int64_t first;  ///< key within the prefix or within the own tokens
  int count;
  bool own;
};

template <int kHeadDim>
struct Shared {
  static constexpr int kWidth = (kHeadDim + 15) / 16 * 16;  // padded with zeros
  static constexpr int kPitch = kWidth + kVector;           // rows start in different banks
  BFloat16 q[kRows * kPitch];
  BFloat16 k[2][kKeys * kPitch], v[2][kKeys * kPitch];  // a chunk in use, the next one on its way
};

/// Copies `rows` rows that are `stride` apart; rows from `valid` on become zeros.
template <int kHeadDim>
__device__ void copy_rows(BFloat16* to, const BFloat16* from, std::int64_t stride, int rows, int valid) {
  constexpr int kVectors = Shared<kHeadDim>::kWidth / kVector;
  for (int i = threadIdx.x; i < rows * kVectors; i += kThreads) {
    const int row = i / kVectors, column = i % kVectors * kVector;
    const bool is_value = row < valid && column < kHeadDim;
    copy_async(to + row * Shared<kHeadDim>::kPitch + column, from + (is_value ? row * stride + column : 0),
               is_value);
  }
}

__device__ std::int64_t start_of(const Placement& at, std::int64_t b, std::int64_t inner_count) {
  return b / inner_count * at.outer + b % inner_count * at.inner;
}

template <int kHeadDim>
__global__ void __launch_bounds__(kThreads) attention_kernel(AttentionLaunch work) {
  constexpr int kPitch = Shared<kHeadDim>::kPitch, kKeySteps = Shared<kHeadDim>::kWidth / 16,
                kScoreTiles = kKeys / 8, kOutTiles = Shared<kHeadDim>::kWidth / 8;
  extern __shared__ __align__(128) unsigned char raw[];
  auto& shared = *reinterpret_cast<Shared<kHeadDim>*>(raw);
  wait_for_previous();

  const int split = blockIdx.y, b = blockIdx.z, warp = threadIdx.x / kWarp, lane = threadIdx.x % kWarp;
  const int group = lane / 4, quad = lane % 4;
  const std::int64_t block_row = blockIdx.x * std::int64_t(kRows);
  const int length = work.lengths_b == nullptr ? int(work.prefix) : int(work.lengths_b[b]);
  const int prefix_chunks = (length + kKeys - 1) / kKeys,
            chunks = prefix_chunks + (int(work.own) + kKeys - 1) / kKeys;
  const int begin = int(chunks * std::int64_t(split) / work.splits);
  const int end = int(chunks * std::int64_t(split + 1) / work.splits);
  const auto chunk_at = [&](int index) -> Chunk {
    const bool own = index >= prefix_chunks;
    const int first = (own ? index - prefix_chunks : index) * kKeys;
    return {first, min(kKeys, (own ? int(work.own) : length) - first), own};
  };
  const std::int64_t prefix_start = start_of(work.prefix_at, b, work.inner_count);
  const auto fetch = [&](int index) {
    const Chunk chunk = chunk_at(index);
    const std::int64_t stride = chunk.own ? kHeadDim : work.prefix_at.row;
    const std::int64_t from = (chunk.own ? b * work.own * kHeadDim : prefix_start) + chunk.first * stride;
    copy_rows<kHeadDim>(shared.k[index % 2], (chunk.own ? work.own_k : work.prefix_k) + from, stride, kKeys,
                        chunk.count);
    copy_rows<kHeadDim>(shared.v[index % 2], (chunk.own ? work.own_v : work.prefix_v) + from, stride, kKeys,
                        chunk.count);
  };

  copy_rows<kHeadDim>(shared.q, work.q + start_of(work.q_at, b, work.inner_count) + block_row * work.q_at.row,
                      work.q_at.row, kRows, int(min(std::int64_t(kRows), work.rows - block_row)));
  if (begin < end) fetch(begin);
  commit_copies();

  // This thread's rows of the block, and which of their own tokens they see.
  const int rows[2] = {warp * 16 + group, warp * 16 + group + 8};
  bool alone[2];
  for (int r = 0; r < 2; ++r)
    alone[r] = work.first_token_alone && block_row + rows[r] < work.heads;  // the first token's heads

  const float scale = rsqrtf(float(kHeadDim)) * 1.4426950408889634f;  // to powers of two
  float out[kOutTiles][4] = {}, largest[2] = {-INFINITY, -INFINITY}, total[2] = {0, 0};
  for (int index = begin; index < end; ++index) {
    if (index + 1 < end) fetch(index + 1);
    commit_copies();
    wait_for_copies<1>();
    __syncthreads();

    float scores[kScoreTiles][4] = {};
    const BFloat16* k = shared.k[index % 2];
#pragma unroll
    for (int step = 0; step < kKeySteps; ++step) {
      unsigned query[4];
      load_matrices(query, shared.q + (warp * 16 + lane % 16) * kPitch + step * 16 + lane / 16 * 8);
#pragma unroll
      for (int tile = 0; tile < kScoreTiles; tile += 2) {
        unsigned key[4];
        load_matrices(key, k + (tile * 8 + lane % 8 + lane / 16 * 8) * kPitch + step * 16 + lane / 8 % 2 * 8);
        multiply(scores[tile], query, key[0], key[1]);
        multiply(scores[tile + 1], query, key[2], key[3]);
      }
    }

    const Chunk chunk = chunk_at(index);
    float rescale[2];
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      const int visible = chunk.own && alone[r] ? (chunk.first == 0 ? 1 : 0) : chunk.count;
      float high = largest[r];
#pragma unroll
      for (int tile = 0; tile < kScoreTiles; ++tile)
        for (int j = 0; j < 2; ++j) {
          float& score = scores[tile][2 * r + j];
          score = tile * 8 + quad * 2 + j < visible ? score * scale : -INFINITY;
          high = fmaxf(high, score);
        }
      high = row_max(high);
      const float base = high == -INFINITY ? 0.0f : high;
      rescale[r] = exp2f(largest[r] - base);
      largest[r] = high;
      float sum = 0;
#pragma unroll
      for (int tile = 0; tile < kScoreTiles; ++tile)
        for (int j = 0; j < 2; ++j) {
          float& score = scores[tile][2 * r + j];
          score = exp2f(score - base);
          sum += score;
        }
      total[r] = total[r] * rescale[r] + row_sum(sum);
    }
#pragma unroll
    for (int tile = 0; tile < kOutTiles; ++tile)
      for (int j = 0; j < 4; ++j) out[tile][j] *= rescale[j / 2];

    const BFloat16* v = shared.v[index % 2];
#pragma unroll
    for (int step = 0; step < kKeys / 16; ++step) {
      const unsigned probability[4] = {pack(scores[2 * step][0], scores[2 * step][1]),
                                       pack(scores[2 * step][2], scores[2 * step][3]),
                                       pack(scores[2 * step + 1][0], scores[2 * step + 1][1]),
                                       pack(scores[2 * step + 1][2], scores[2 * step + 1][3])};
#pragma unroll
      for (int tile = 0; tile < kOutTiles; tile += 2) {
        unsigned value[4];
        load_transposed_matrices(value, v + (step * 16 + lane % 16) * kPitch + tile * 8 + lane / 16 * 8);
        multiply(out[tile], probability, value[0], value[1]);
        multiply(out[tile + 1], probability, value[2], value[3]);
      }
    }
    __syncthreads();
  }

#pragma unroll
  for (int r = 0; r < 2; ++r) {
    const std::int64_t row = block_row + rows[r];
    if (row >= work.rows) continue;
    if (work.splits == 1) {
      unsigned* to = reinterpret_cast<unsigned*>(work.out + start_of(work.out_at, b, work.inner_count) +
                                                 row * work.out_at.row);
#pragma unroll
      for (int tile = 0; tile < kHeadDim / 8; ++tile)
        to[tile * 4 + quad] = pack(out[tile][2 * r] / total[r], out[tile][2 * r + 1] / total[r]);
    } else {
      const std::int64_t slot = split * work.batch * work.rows + b * work.rows + row;
      float2* to = reinterpret_cast<float2*>(work.partial + slot * kHeadDim);
#pragma unroll
      for (int tile = 0; tile < kHeadDim / 8; ++tile)
        to[tile * 4 + quad] = make_float2(out[tile][2 * r], out[tile][2 * r + 1]);
      if (quad == 0) reinterpret_cast<float2*>(work.partial_sums)[slot] = make_float2(largest[r], total[r]);
    }
  }
}

/// Joins the splits of one row.
__global__ void combine_kernel(AttentionLaunch work) {
  wait_for_previous();
  const std::int64_t row = blockIdx.x, rows = work.batch * work.rows;
  const float2* sums = reinterpret_cast<const float2*>(work.partial_sums) + row;
  float largest = -INFINITY, total = 0;
#pragma unroll 8
  for (int split = 0; split < work.splits; ++split) largest = fmaxf(largest, sums[split * rows].x);
  Pack<float, kPack> out{};
  const int i = threadIdx.x * kPack;
#pragma unroll 8
  for (int split = 0; split < work.splits; ++split) {
    const float weight = exp2f(sums[split * rows].x - largest);
    total += weight * sums[split * rows].y;
    const auto part = load_pack(work.partial + (split * rows + row) * work.head_dim + i);
    for (int j = 0; j < kPack; ++j) out.values[j] += weight * part.values[j];
  }
  Pack<BFloat16, kPack> result;
  for (int j = 0; j < kPack; ++j) result.values[j] = BFloat16(out.values[j] / total);
  store_pack(work.out + start_of(work.out_at, row / work.rows, work.inner_count) +
                 row % work.rows * work.out_at.row + i,
             result);
}

unsigned row_blocks(const AttentionLaunch& work) {
  return static_cast<unsigned>((work.rows + kRows - 1) / kRows);
}

template <int kHeadDim>
void launch_for(const AttentionLaunch& work, CudaStream stream) {
  constexpr std::size_t kBytes = sizeof(Shared<kHeadDim>);
  const dim3 grid(row_blocks(work), static_cast<unsigned>(work.splits), static_cast<unsigned>(work.batch));
  start(attention_kernel<kHeadDim>, grid, kThreads, kBytes, stream, work);
  if (work.splits > 1)
    start(combine_kernel, dim3(static_cast<unsigned>(work.batch * work.rows)), kHeadDim / kPack, 0, stream,
          work);
}

}  // namespace

bool is_attention_head_dim(std::int64_t head_dim) {
  return head_dim == 16 || head_dim == 32 || head_dim == 64 || head_dim == 72 || head_dim == 128 ||
         head_dim == 256;
}

std::int64_t attention_splits(const AttentionLaunch& work) {
  const std::int64_t chunks = (work.prefix + kKeys - 1) / kKeys + (work.own + kKeys - 1) / kKeys;
  const std::int64_t blocks = row_blocks(work) * work.batch;
  // Two blocks fit on a multiprocessor; a split of less than two chunks would cost more to join than it
  // saves.
  const std::int64_t wanted = device_attribute(cudaDevAttrMultiProcessorCount) * 3 / 2 / blocks;
  return std::clamp<std::int64_t>(wanted, 1, std::max<std::int64_t>(chunks / 2, 1));
}

void launch(const AttentionLaunch& work, CudaStream stream) {
  switch (work.head_dim) {
    case 16:
      return launch_for<16>(work, stream);
    case 32:
      return launch_for<32>(work, stream);
    case 64:
      return launch_for<64>(work, stream);
    case 72:
      return launch_for<72>(work, stream);
    case 128:
      return launch_for<128>(work, stream);
    case 256:
      return launch_for<256>(work, stream);
  }
  throw std::runtime_error("attention kernel: no such head_dim");
}

}  // namespace shallowpi::fused
