// Attention: FlashAttention's online softmax, with the keys split over blocks or warps where there are few
// queries (flash decoding). On devices with clusters the blocks of a row join their results in shared memory.
#include "model/fused_device.cuh"
#include "model/fused_rows.cuh"

namespace shallowpi::fused {
namespace {

constexpr int kWarps = 4, kThreads = kWarps * kWarp;
constexpr int kWarpRows = 16;              // query rows of a warp: mma's tile
constexpr int kRows = kWarpRows * kWarps;  // of a block
constexpr int kKeys = 32;                  // keys that are handled at a time

/// Over the four lanes that hold a row.
__device__ float row_max(float value) {
  value = fmaxf(value, __shfl_xor_sync(~0u, value, 1));
  return fmaxf(value, __shfl_xor_sync(~0u, value, 2));
}
__device__ float row_sum(float value) {
  value += __shfl_xor_sync(~0u, value, 1);
  return value + __shfl_xor_sync(~0u, value, 2);
}

/// Keys of one stretch that are handled together: where they are, and how many there are.
struct Chunk {
  std::int64_t first;  ///< key within the prefix or within the own tokens
  int count;
  bool own;
};

/// Which keys a sample's queries attend to, in chunks: first the prefix's, then their own.
struct Keys {
  int length, prefix_chunks, chunks, own;

  __device__ Keys(const AttentionLaunch& work, std::int64_t b)
      : length(work.lengths_b == nullptr ? int(work.prefix) : int(work.lengths_b[b])),
        prefix_chunks((length + kKeys - 1) / kKeys),
        chunks(prefix_chunks + (int(work.own) + kKeys - 1) / kKeys),
        own(int(work.own)) {}
  __device__ Chunk at(int index) const {
    const bool is_own = index >= prefix_chunks;
    const int first = (is_own ? index - prefix_chunks : index) * kKeys;
    return {first, min(kKeys, (is_own ? own : length) - first), is_own};
  }
};

/// Rows of a head's width in shared memory.
template <int kHeadDim>
struct Padded {
  static constexpr int kWidth = (kHeadDim + 15) / 16 * 16;  // with zeros
  static constexpr int kPitch = kWidth + kVector;           // rows start in different banks
};
/// A chunk's keys and values.
template <int kHeadDim>
struct KeyBuffer {
  BFloat16 k[kKeys * Padded<kHeadDim>::kPitch], v[kKeys * Padded<kHeadDim>::kPitch];
};

/// Copies `rows` rows that are `stride` apart, with threads `rank` of `size`; rows from `valid` on become
/// zeros.
template <int kHeadDim>
__device__ void copy_rows(BFloat16* to, const BFloat16* from, std::int64_t stride, int rows, int valid,
                          int rank, int size) {
  constexpr int kVectors = Padded<kHeadDim>::kWidth / kVector;
  for (int i = rank; i < rows * kVectors; i += size) {
    const int row = i / kVectors, column = i % kVectors * kVector;
    const bool is_value = row < valid && column < kHeadDim;
    copy_async(to + row * Padded<kHeadDim>::kPitch + column, from + (is_value ? row * stride + column : 0),
               is_value);
  }
}

__device__ std::int64_t start_of(const Placement& at, std::int64_t b, std::int64_t inner_count) {
  return b / inner_count * at.outer + b % inner_count * at.inner;
}

template <int kHeadDim>
__device__ void copy_chunk(const AttentionLaunch& work, std::int64_t b, const Chunk& chunk,
                           KeyBuffer<kHeadDim>& to, int rank, int size) {
  const std::int64_t stride = chunk.own ? kHeadDim : work.prefix_at.row;
  const std::int64_t from =
      (chunk.own ? b * work.own * kHeadDim : start_of(work.prefix_at, b, work.inner_count)) +
      chunk.first * stride;
  copy_rows<kHeadDim>(to.k, (chunk.own ? work.own_k : work.prefix_k) + from, stride, kKeys, chunk.count, rank,
                      size);
  copy_rows<kHeadDim>(to.v, (chunk.own ? work.own_v : work.prefix_v) + from, stride, kKeys, chunk.count, rank,
                      size);
}

/// What a warp has of 16 query rows over the chunks so far, in the registers' layout of PTX's mma.m16n8k16: a
/// thread has parts of the rows `lane / 4` and 8 below it.
template <int kHeadDim>
struct Rows {
  static constexpr int kPitch = Padded<kHeadDim>::kPitch, kKeySteps = Padded<kHeadDim>::kWidth / 16,
                       kScoreTiles = kKeys / 8, kOutTiles = Padded<kHeadDim>::kWidth / 8;
  float out[kOutTiles][4] = {}, largest[2] = {-INFINITY, -INFINITY}, total[2] = {0, 0};

  /// Adds a chunk, of which the thread's two rows see the first `visible` keys; `q` are the warp's rows.
  __device__ void add(const BFloat16* q, const KeyBuffer<kHeadDim>& keys, const int (&visible)[2]) {
    const int lane = threadIdx.x % kWarp, quad = lane % 4;
    const float scale = rsqrtf(float(kHeadDim)) * 1.4426950408889634f;  // to powers of two
    float scores[kScoreTiles][4] = {};
#pragma unroll
    for (int step = 0; step < kKeySteps; ++step) {
      unsigned query[4];
      load_matrices(query, q + lane % 16 * kPitch + step * 16 + lane / 16 * 8);
#pragma unroll
      for (int tile = 0; tile < kScoreTiles; tile += 2) {
        unsigned key[4];
        load_matrices(key,
                      keys.k + (tile * 8 + lane % 8 + lane / 16 * 8) * kPitch + step * 16 + lane / 8 % 2 * 8);
        multiply(scores[tile], query, key[0], key[1]);
        multiply(scores[tile + 1], query, key[2], key[3]);
      }
    }

    float rescale[2];
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      float high = largest[r];
#pragma unroll
      for (int tile = 0; tile < kScoreTiles; ++tile)
        for (int j = 0; j < 2; ++j) {
          float& score = scores[tile][2 * r + j];
          score = tile * 8 + quad * 2 + j < visible[r] ? score * scale : -INFINITY;
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

#pragma unroll
    for (int step = 0; step < kKeys / 16; ++step) {
      const unsigned probability[4] = {pack(scores[2 * step][0], scores[2 * step][1]),
                                       pack(scores[2 * step][2], scores[2 * step][3]),
                                       pack(scores[2 * step + 1][0], scores[2 * step + 1][1]),
                                       pack(scores[2 * step + 1][2], scores[2 * step + 1][3])};
#pragma unroll
      for (int tile = 0; tile < kOutTiles; tile += 2) {
        unsigned value[4];
        load_transposed_matrices(value, keys.v + (step * 16 + lane % 16) * kPitch + tile * 8 + lane / 16 * 8);
        multiply(out[tile], probability, value[0], value[1]);
        multiply(out[tile + 1], probability, value[2], value[3]);
      }
    }
  }
};

/// How many keys of a chunk the thread's rows see: pi0's state, the first token, sees of its own tokens only
/// itself.
struct Visibility {
  bool alone[2];

  __device__ Visibility(const AttentionLaunch& work, std::int64_t first_row) {
    for (int r = 0; r < 2; ++r)
      alone[r] = work.first_token_alone && first_row + threadIdx.x % kWarp / 4 + 8 * r < work.heads;
  }
  template <int kHeadDim>
  __device__ void add(Rows<kHeadDim>& rows, const BFloat16* q, const KeyBuffer<kHeadDim>& keys,
                      const Chunk& chunk) {
    int visible[2];
    for (int r = 0; r < 2; ++r) visible[r] = chunk.own && alone[r] ? (chunk.first == 0 ? 1 : 0) : chunk.count;
    rows.add(q, keys, visible);
  }
};

/// The results of `kCount` rows over a part of the keys, in the memory that held keys.
template <int kHeadDim, int kCount>
struct Part {
  static constexpr int kPitch = kHeadDim + kPack;
  float out[kCount * kPitch];
  float2 sums[kCount];  ///< largest score, and sum of the weights relative to it

  /// A warp's 16 rows, the first of which is the part's row `first`.
  __device__ void store(const Rows<kHeadDim>& rows, int first) {
    const int lane = threadIdx.x % kWarp, quad = lane % 4;
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      const int row = first + lane / 4 + 8 * r;
#pragma unroll
      for (int tile = 0; tile < kHeadDim / 8; ++tile)
        store_pack(out + row * kPitch + tile * 8 + quad * 2,
                   Pack<float, 2>{{rows.out[tile][2 * r], rows.out[tile][2 * r + 1]}});
      if (quad == 0) sums[row] = make_float2(rows.largest[r], rows.total[r]);
    }
  }
};

__device__ BFloat16* out_row(const AttentionLaunch& work, std::int64_t b, std::int64_t row) {
  return work.out + start_of(work.out_at, b, work.inner_count) + row * work.out_at.row;
}

/// Joins the parts of the rows from `first` on: `of(i)` is part i of `parts`, at most a warp's number. Each
/// block of the cluster joins some rows, a warp each.
template <int kHeadDim, int kCount, typename PartOf>
__device__ void join(const AttentionLaunch& work, std::int64_t first, int parts, const PartOf& of) {
  const int lane = threadIdx.x % kWarp, blocks = int(work.splits);
  const int rows = int(min(std::int64_t(kCount), work.rows - first));
  for (int row = int(blockIdx.y) + blocks * (int(threadIdx.x) / kWarp); row < rows; row += blocks * kWarps) {
    const float2 mine = lane < parts ? of(lane)->sums[row] : make_float2(-INFINITY, 0);
    float largest = mine.x;
    for (int offset = kWarp / 2; offset > 0; offset /= 2)
      largest = fmaxf(largest, __shfl_xor_sync(~0u, largest, offset));
    const float weight = exp2f(mine.x - largest);
    float total = weight * mine.y;
    for (int offset = kWarp / 2; offset > 0; offset /= 2) total += __shfl_xor_sync(~0u, total, offset);

    BFloat16* to = out_row(work, blockIdx.z, first + row);
#pragma unroll
    for (int begin = 0; begin < kHeadDim; begin += kWarp * kPack) {
      const int i = begin + lane * kPack;
      Pack<float, kPack> out{};
#pragma unroll 8
      for (int part = 0; part < parts; ++part) {
        const float factor = __shfl_sync(~0u, weight, part);
        if (i >= kHeadDim) continue;
        const auto values = load_pack(of(part)->out + row * Part<kHeadDim, kCount>::kPitch + i);
        for (int j = 0; j < kPack; ++j) out.values[j] += factor * values.values[j];
      }
      Pack<BFloat16, kPack> result;
      for (int j = 0; j < kPack; ++j) result.values[j] = BFloat16(out.values[j] / total);
      if (i < kHeadDim) store_pack(to + i, result);
    }
  }
}

template <int kHeadDim>
struct Shared {
  BFloat16 q[kRows * Padded<kHeadDim>::kPitch];
  KeyBuffer<kHeadDim> keys[2];  ///< a chunk in use, the next one on its way
};

/// Many rows: each warp has 16 of the block's, and all warps read the same keys. Blocks are (rows, split,
/// sample). `kJoined`: the splits of a row are a cluster, which joins them; else `combine_kernel` does.
template <int kHeadDim, bool kJoined>
__global__ void __launch_bounds__(kThreads) attention_kernel(AttentionLaunch work) {
  auto& shared = *reinterpret_cast<Shared<kHeadDim>*>(dynamic_memory);
  wait_for_previous();

  const int split = blockIdx.y, b = blockIdx.z, warp = threadIdx.x / kWarp, lane = threadIdx.x % kWarp;
  const std::int64_t block_row = blockIdx.x * std::int64_t(kRows);
  const Keys keys(work, b);
  const int begin = int(keys.chunks * std::int64_t(split) / work.splits);
  const int end = int(keys.chunks * std::int64_t(split + 1) / work.splits);
  const auto fetch = [&](int index) {
    copy_chunk<kHeadDim>(work, b, keys.at(index), shared.keys[index % 2], threadIdx.x, kThreads);
  };

  copy_rows<kHeadDim>(shared.q, work.q + start_of(work.q_at, b, work.inner_count) + block_row * work.q_at.row,
                      work.q_at.row, kRows, int(min(std::int64_t(kRows), work.rows - block_row)), threadIdx.x,
                      kThreads);
  if (begin < end) fetch(begin);
  commit_copies();

  Visibility visibility(work, block_row + warp * kWarpRows);
  Rows<kHeadDim> rows;
  for (int index = begin; index < end; ++index) {
    if (index + 1 < end) fetch(index + 1);
    commit_copies();
    wait_for_copies<1>();
    __syncthreads();
    visibility.add(rows, shared.q + warp * kWarpRows * Padded<kHeadDim>::kPitch, shared.keys[index % 2],
                   keys.at(index));
    __syncthreads();
  }

  if constexpr (kJoined) {
    using BlockPart = Part<kHeadDim, kRows>;
    static_assert(sizeof(BlockPart) <= sizeof(Shared<kHeadDim>));
    auto& mine = *reinterpret_cast<BlockPart*>(dynamic_memory);
    wait_for_copies<0>();  // of the queries, where there was no chunk
    __syncthreads();
    mine.store(rows, warp * kWarpRows);
    sync_cluster();
    join<kHeadDim, kRows>(work, block_row, int(work.splits), [&](int part) { return of_block(&mine, part); });
    sync_cluster();  // nobody ends while its results are being read
    return;
  }
  const int group = lane / 4, quad = lane % 4;
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    const std::int64_t row = block_row + warp * kWarpRows + group + 8 * r;
    if (row >= work.rows) continue;
    if (work.splits == 1) {
      unsigned* to = reinterpret_cast<unsigned*>(out_row(work, b, row));
#pragma unroll
      for (int tile = 0; tile < kHeadDim / 8; ++tile)
        to[tile * 4 + quad] =
            pack(rows.out[tile][2 * r] / rows.total[r], rows.out[tile][2 * r + 1] / rows.total[r]);
    } else {
      const std::int64_t slot = split * work.batch * work.rows + b * work.rows + row;
      float2* to = reinterpret_cast<float2*>(work.partial + slot * kHeadDim);
#pragma unroll
      for (int tile = 0; tile < kHeadDim / 8; ++tile)
        to[tile * 4 + quad] = make_float2(rows.out[tile][2 * r], rows.out[tile][2 * r + 1]);
      if (quad == 0)
        reinterpret_cast<float2*>(work.partial_sums)[slot] = make_float2(rows.largest[r], rows.total[r]);
    }
  }
}

template <int kHeadDim>
struct FewShared {
  BFloat16 q[kWarpRows * Padded<kHeadDim>::kPitch];
  KeyBuffer<kHeadDim> keys[kWarps];  ///< one of each warp; in the end its part of the result
};

/// Few rows, as an action expert has them: the warps of a cluster share 16 rows, and each has its own chunks
/// of the keys. Blocks are (rows, split, sample).
template <int kHeadDim>
__global__ void __launch_bounds__(kThreads) few_rows_kernel(AttentionLaunch work) {
  using WarpPart = Part<kHeadDim, kWarpRows>;
  static_assert(sizeof(WarpPart) <= sizeof(KeyBuffer<kHeadDim>) && alignof(WarpPart) <= 16);
  auto& shared = *reinterpret_cast<FewShared<kHeadDim>*>(dynamic_memory);
  const int warp = threadIdx.x / kWarp, lane = threadIdx.x % kWarp, b = blockIdx.z;
  const std::int64_t block_row = blockIdx.x * std::int64_t(kWarpRows);
  const Keys keys(work, b);
  int index = int(blockIdx.y) * kWarps + warp;
  const auto fetch = [&] { copy_chunk<kHeadDim>(work, b, keys.at(index), shared.keys[warp], lane, kWarp); };

  const bool is_prefix = index < keys.prefix_chunks;
  if (is_prefix) fetch();  // older than the previous kernel
  wait_for_previous();
  if (!is_prefix && index < keys.chunks) fetch();
  copy_rows<kHeadDim>(shared.q, work.q + start_of(work.q_at, b, work.inner_count) + block_row * work.q_at.row,
                      work.q_at.row, kWarpRows, int(min(std::int64_t(kWarpRows), work.rows - block_row)),
                      threadIdx.x, kThreads);
  commit_copies();
  wait_for_copies<0>();
  __syncthreads();

  Visibility visibility(work, block_row);
  Rows<kHeadDim> rows;
  while (index < keys.chunks) {
    visibility.add(rows, shared.q, shared.keys[warp], keys.at(index));
    index += int(work.splits) * kWarps;
    __syncwarp();
    if (index < keys.chunks) fetch();
    commit_copies();
    wait_for_copies<0>();
    __syncwarp();
  }
  const auto part_of = [&](int of_warp) { return reinterpret_cast<WarpPart*>(shared.keys + of_warp); };
  part_of(warp)->store(rows, 0);
  sync_cluster();
  join<kHeadDim, kWarpRows>(work, block_row, int(work.splits) * kWarps,
                            [&](int part) { return of_block(part_of(part % kWarps), part / kWarps); });
  sync_cluster();  // nobody ends while its results are being read
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
  store_pack(out_row(work, row / work.rows, row % work.rows) + i, result);
}

std::int64_t blocks_of(std::int64_t rows, std::int64_t block) {
  return (rows + block - 1) / block;
}

/// sizeof(FewShared<head_dim>).
constexpr std::int64_t few_rows_bytes(std::int64_t head_dim) {
  const std::int64_t pitch = (head_dim + 15) / 16 * 16 + kVector;
  return (kWarpRows + kWarps * 2 * kKeys) * pitch * std::int64_t(sizeof(BFloat16));
}

/// Whether so few blocks of many rows would be, that the device is busier with 16 rows each.
bool has_few_rows(const AttentionLaunch& work) {
  constexpr std::int64_t kMost = 128;
  // Keys of the queries' own tokens mean that the prefix is from before the previous kernel.
  return has_clusters() && work.own > 0 && work.batch * work.rows <= kMost &&
         few_rows_bytes(work.head_dim) <= device_attribute(cudaDevAttrMaxSharedMemoryPerBlockOptin);
}

template <int kHeadDim>
void launch_for(const AttentionLaunch& work, CudaStream stream) {
  const auto splits = static_cast<unsigned>(work.splits), batch = static_cast<unsigned>(work.batch);
  if (has_few_rows(work)) {
    static_assert(sizeof(FewShared<kHeadDim>) == few_rows_bytes(kHeadDim));
    const dim3 grid(static_cast<unsigned>(blocks_of(work.rows, kWarpRows)), splits, batch);
    return start(few_rows_kernel<kHeadDim>, {grid, kThreads, sizeof(FewShared<kHeadDim>), work.splits},
                 stream, work);
  }
  constexpr std::size_t kBytes = sizeof(Shared<kHeadDim>);
  const dim3 grid(static_cast<unsigned>(blocks_of(work.rows, kRows)), splits, batch);
  if (work.splits > 1 && has_clusters())
    return start(attention_kernel<kHeadDim, true>, {grid, kThreads, kBytes, work.splits}, stream, work);
  start(attention_kernel<kHeadDim, false>, {grid, kThreads, kBytes}, stream, work);
  if (work.splits > 1)
    start(combine_kernel, {dim3(static_cast<unsigned>(work.batch * work.rows)), kHeadDim / kPack}, stream,
          work);
}

}  // namespace

bool is_attention_head_dim(std::int64_t head_dim) {
  return head_dim == 16 || head_dim == 32 || head_dim == 64 || head_dim == 72 || head_dim == 128 ||
         head_dim == 256;
}

std::int64_t attention_splits(const AttentionLaunch& work) {
  const std::int64_t chunks = blocks_of(work.prefix, kKeys) + blocks_of(work.own, kKeys);
  if (has_few_rows(work)) return std::min(blocks_of(chunks, kWarps), kMaxCluster);
  // Two blocks fit on a multiprocessor; a split of less than two chunks would cost more to join than it
  // saves.
  const std::int64_t wanted =
      device_attribute(cudaDevAttrMultiProcessorCount) * 3 / 2 / (blocks_of(work.rows, kRows) * work.batch);
  const std::int64_t most = has_clusters() ? std::min(chunks / 2, kMaxCluster) : chunks / 2;
  return std::clamp<std::int64_t>(wanted, 1, std::max<std::int64_t>(most, 1));
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
