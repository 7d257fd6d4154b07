// Products with few rows. Reading the weight once, from many multiprocessors at a time, is all their cost; so
// the weight goes straight from memory into registers, 16 bytes per lane, and the inner dimension is permuted
// alike in both operands so that those bytes are what PTX's mma wants. What surrounds a product in an expert
// layer (the norm before it, rotation, gated GELU or residual sum after it) happens in the same kernel, where
// the device has clusters: their blocks add up the parts of a product in shared memory.
#include "model/fused_device.cuh"
#include "model/fused_rows.cuh"

namespace shallowpi::fused {
namespace {

constexpr int kColumnWarps = 4;  // warps side by side; each group of them takes a half of the slice
constexpr int kHalves = 2, kWarps = kHalves * kColumnWarps, kThreads = kWarps * kWarp;
constexpr int kStep = 4 * kVector;  // inner values that a warp consumes per load: 4 lanes share a row
constexpr int kColumnTiles = 2;     // of 8 columns, per warp
constexpr int kColumns = kColumnWarps * kColumnTiles * 8;  // of a block
constexpr int kUnroll = 4;                                 // steps whose loads are under way together
constexpr int kSumPitch = kColumns + 4;                    // of the block's sums in shared memory

/// What becomes of a product.
enum class Ending {
  kParts,    ///< the blocks' sums, for the next operation to add up
  kGated,    ///< gelu(left half) * right half
  kRotated,  ///< the heads of an attention
  kAdded     ///< the next state of a residual stream
};
__host__ __device__ constexpr bool in_cluster(Ending ending) {
  return ending == Ending::kRotated || ending == Ending::kAdded;
}

/// Values from row to row of x in shared memory: 64 bytes off a multiple of 128, so that the rows of
/// neighbouring lanes fall into different banks.
__host__ __device__ constexpr int pitch_of(int slice) {
  return (slice + 63) / 64 * 64 + 32;
}

using Vector = uint4;

/// A block's columns: two tiles per warp, side by side, or as far apart as the values that belong together.
template <Ending kEnding>
struct Columns {
  int head = 0, within = 0;  ///< kRotated: whose, and from where in each half of the head
  int first = 0, apart = 0;  ///< of this warp's first tile; from there to its second

  __device__ Columns(const LinearLaunch& work, int warp) {
    if constexpr (kEnding == Ending::kRotated) {
      apart = work.heads.head_dim / 2;
      const int blocks = apart / (kColumns / 2);
      head = int(blockIdx.x) / blocks;
      within = int(blockIdx.x) % blocks * (kColumns / 2);
      first = head * work.heads.head_dim + within + warp * 8;
    } else if constexpr (kEnding == Ending::kGated) {
      apart = int(work.columns / 2);
      first = (int(blockIdx.x) * kColumnWarps + warp) * 8;
    } else {
      apart = 8;
      first = (int(blockIdx.x) * kColumnWarps + warp) * kColumnTiles * 8;
    }
  }
};

/// A slice of x into shared memory; rows that do not exist become zeros.
template <int kRows>
__device__ void copy_slice(const LinearLaunch& work, BFloat16* to, int pitch, int begin, int slice) {
  const int vectors = slice / kVector;
  for (int i = threadIdx.x; i < kRows * vectors; i += kThreads) {
    const int row = i / vectors, column = i % vectors * kVector;
    const bool valid = row < work.rows;
    copy_async(to + row * pitch + column, work.x + (valid ? row * work.inner + begin + column : 0), valid);
  }
  commit_copies();
  wait_for_copies<0>();
}

/// Lanes whose numbers differ in bit `2 * kCount` go on with one half of 2 * kCount values each.
template <int kCount>
__device__ void halve(float (&values)[16]) {
  const bool upper = threadIdx.x & (2 * kCount);
#pragma unroll
  for (int j = 0; j < kCount; ++j) {
    const float keep = upper ? values[j + kCount] : values[j], give = upper ? values[j] : values[j + kCount];
    values[j] = keep + __shfl_xor_sync(~0u, give, 2 * kCount);
  }
}
/// Adds up 16 values over the lanes of a warp: lane l gets the sum of values[l / 2].
__device__ float sum_over_lanes(float (&values)[16]) {
  halve<8>(values);
  halve<4>(values);
  halve<2>(values);
  halve<1>(values);
  return values[0] + __shfl_xor_sync(~0u, values[0], 1);
}

/// The same slice of the stream's norm. Rows that do not exist are left as they are: no other row's sums
/// depend on them.
__device__ void normalize_slice(const LinearLaunch& work, BFloat16* to, int pitch, int begin, int slice) {
  static_assert(kFewRows == 16, "sum_over_lanes adds up so many rows");
  __shared__ float squares[kWarps][kFewRows], inverse[kFewRows];
  const int rows = int(work.rows), inner = int(work.inner), tokens = int(work.tokens);
  const int warp = threadIdx.x / kWarp, lane = threadIdx.x % kWarp;
  float sums[kFewRows] = {};
  // A thread reads the same columns of all rows, so that all these loads are under way together.
  for (int i = threadIdx.x * kPack; i < inner; i += kThreads * kPack) {
    Pack<float, kPack> values[kFewRows];
#pragma unroll
    for (int m = 0; m < kFewRows; ++m)
      values[m] = m < rows ? load_pack(work.norm.x + m * inner + i) : Pack<float, kPack>{};
#pragma unroll
    for (int m = 0; m < kFewRows; ++m) sums[m] += squares_of(values[m]);
  }
  const float total = sum_over_lanes(sums);
  if (lane % 2 == 0) squares[warp][lane / 2] = total;
  __syncthreads();
  if (threadIdx.x < kFewRows) {
    float sum = 0;
    for (int w = 0; w < kWarps; ++w) sum += squares[w][threadIdx.x];
    inverse[threadIdx.x] = inverse_rms(sum, inner);
  }
  __syncthreads();
  const int packs = slice / kPack;
#pragma unroll 4
  for (int i = threadIdx.x; i < rows * packs; i += kThreads) {
    const int row = i / packs, column = i % packs * kPack, b = row / tokens, s = row % tokens;
    const float* shift = at(work.norm.shift, work.norm.shift_at, b, s);
    store_pack(
        to + row * pitch + column,
        scaled_and_shifted<BFloat16>(load_pack(work.norm.x + row * inner + begin + column), inverse[row],
                                     at(work.norm.scale, work.norm.scale_at, b, s) + begin + column,
                                     at(shift, begin + column)));
  }
}

/// This lane's pair of values of `row`, summed over the blocks of the cluster.
__device__ float2 sum_pair(const float* sums, int parts, std::int64_t row, int first, int second) {
  float2 sum{0, 0};
#pragma unroll 4
  for (int part = 0; part < parts; ++part) {
    const float* values = of_block(sums, part) + row * kSumPitch;
    sum.x += values[first];
    sum.y += values[second];
  }
  return sum;
}

/// Each block of the cluster finishes some of the rows, a warp each.
template <Ending kEnding>
__device__ void finish_rows(const LinearLaunch& work, const Columns<kEnding>& columns, const float* sums) {
  const int lane = threadIdx.x % kWarp, parts = int(work.parts), part = int(blockIdx.y);
  for (std::int64_t row = part + parts * std::int64_t(threadIdx.x / kWarp); row < work.rows;
       row += parts * kWarps) {
    const std::int64_t b = row / work.tokens, s = row % work.tokens;
    if constexpr (kEnding == Ending::kAdded) {
      const float2 sum = sum_pair(sums, parts, row, 2 * lane, 2 * lane + 1);
      const int column = int(blockIdx.x) * kColumns + 2 * lane;
      const auto x = load_pack<2>(work.added.x + row * work.columns + column);
      const float* gate = at(at(work.added.gate, work.added.gate_at, b, s), column);
      const float factors[2] = {gate != nullptr ? gate[0] : 1.0f, gate != nullptr ? gate[1] : 1.0f};
      store_pack(work.added.sum + row * work.columns + column,
                 Pack<float, 2>{{x.values[0] + factors[0] * sum.x, x.values[1] + factors[1] * sum.y}});
    } else {
      const HeadsOutput& heads = work.heads;
      const float2 sum = sum_pair(sums, parts, row, lane, lane + kColumns / 2);
      const int i = columns.within + lane;
      RotatedPair pair{sum.x, sum.y};
      if (columns.head <= heads.count)  // the last one holds the values
        pair =
            rotate(sum.x, sum.y, at(heads.cos, heads.cos_at, b, s)[i], at(heads.sin, heads.sin_at, b, s)[i]);
      BFloat16* to = columns.head < heads.count
                         ? heads.q + (row * heads.count + columns.head) * heads.head_dim
                         : (columns.head == heads.count ? heads.k : heads.v) + row * heads.head_dim;
      to[i] = BFloat16(pair.low);
      to[i + columns.apart] = BFloat16(pair.high);
    }
  }
}

/// Blocks are (columns, part). With few rows two of them fit on a multiprocessor, so that the next kernel
/// starts while this one ends.
template <int kRowTiles, bool kNormed, Ending kEnding>
__global__ void __launch_bounds__(kThreads, kRowTiles <= 2 ? 2 : 1) linear_kernel(LinearLaunch work) {
  constexpr int kRows = kRowTiles * 16;
  BFloat16* x = reinterpret_cast<BFloat16*>(dynamic_memory);
  const int warp = threadIdx.x / kWarp % kColumnWarps, half = threadIdx.x / kWarp / kColumnWarps;
  const int lane = threadIdx.x % kWarp, group = lane / 4, quad = lane % 4;
  const int inner = int(work.inner), slice = inner / int(work.parts), begin = blockIdx.y * slice;
  const int pitch = pitch_of(slice), width = slice / kHalves, mine = half * width;

  const Columns<kEnding> columns(work, warp);
  const BFloat16* weight[kColumnTiles];
#pragma unroll
  for (int tile = 0; tile < kColumnTiles; ++tile)
    weight[tile] = work.weight + std::int64_t(columns.first + tile * columns.apart + group) * inner + begin +
                   mine + quad * kVector;
  Vector next[kUnroll][kColumnTiles];
  const auto fetch = [&](int offset) {
#pragma unroll
    for (int u = 0; u < kUnroll; ++u)
#pragma unroll
      for (int tile = 0; tile < kColumnTiles; ++tile)
        if (offset + u * kStep < width) next[u][tile] = load_once(weight[tile] + offset + u * kStep);
  };
  fetch(0);  // the weight is no kernel's output
  // What the registers do not hold yet comes as far as the cache: a line is two steps of a row.
#pragma unroll 1
  for (int offset = (kUnroll + quad % 2 * 2) * kStep; offset < width; offset += 4 * kStep)
    prefetch((quad / 2 == 0 ? weight[0] : weight[1]) - quad * kVector + offset);
  wait_for_previous();

  if constexpr (kNormed) {
    normalize_slice(work, x, pitch, begin, slice);
  } else {
    copy_slice<kRows>(work, x, pitch, begin, slice);
  }
  __syncthreads();

  float sums[kRowTiles][kColumnTiles][4] = {};
  for (int offset = 0; offset < width; offset += kUnroll * kStep) {
    Vector now[kUnroll][kColumnTiles];
#pragma unroll
    for (int u = 0; u < kUnroll; ++u)
#pragma unroll
      for (int tile = 0; tile < kColumnTiles; ++tile) now[u][tile] = next[u][tile];
    fetch(offset + kUnroll * kStep);
#pragma unroll
    for (int u = 0; u < kUnroll; ++u) {
      if (offset + u * kStep >= width) break;
#pragma unroll
      for (int r = 0; r < kRowTiles; ++r) {
        const BFloat16* from = x + (r * 16 + group) * pitch + mine + offset + u * kStep + quad * kVector;
        const Vector upper = *reinterpret_cast<const Vector*>(from);
        const Vector lower = *reinterpret_cast<const Vector*>(from + 8 * pitch);
        const unsigned first[4] = {upper.x, lower.x, upper.y, lower.y};
        const unsigned second[4] = {upper.z, lower.z, upper.w, lower.w};
#pragma unroll
        for (int tile = 0; tile < kColumnTiles; ++tile) {
          multiply(sums[r][tile], first, now[u][tile].x, now[u][tile].y);
          multiply(sums[r][tile], second, now[u][tile].z, now[u][tile].w);
        }
      }
    }
  }

  // The second half's sums go to the first through the memory that held x.
  float4* exchange = reinterpret_cast<float4*>(dynamic_memory) + threadIdx.x % (kColumnWarps * kWarp);
  __syncthreads();
#pragma unroll
  for (int r = 0; r < kRowTiles; ++r)
#pragma unroll
    for (int tile = 0; tile < kColumnTiles; ++tile)
      if (half == 1)
        exchange[(r * kColumnTiles + tile) * kColumnWarps * kWarp] =
            make_float4(sums[r][tile][0], sums[r][tile][1], sums[r][tile][2], sums[r][tile][3]);
  __syncthreads();
  if (!in_cluster(kEnding) && half == 1) return;
  float* block_sums =
      reinterpret_cast<float*>(dynamic_memory) + kRowTiles * kColumnTiles * kColumnWarps * kWarp * 4;
#pragma unroll
  for (int r = 0; r < kRowTiles; ++r) {
    if (half == 1) break;
#pragma unroll
    for (int tile = 0; tile < kColumnTiles; ++tile) {
      const float4 other = exchange[(r * kColumnTiles + tile) * kColumnWarps * kWarp];
      sums[r][tile][0] += other.x;
      sums[r][tile][1] += other.y;
      sums[r][tile][2] += other.z;
      sums[r][tile][3] += other.w;
    }
#pragma unroll
    for (int lower = 0; lower < 2; ++lower) {
      const std::int64_t row = r * 16 + lower * 8 + group;
      if (row >= work.rows) continue;
      if constexpr (kEnding == Ending::kGated) {
        Pack<BFloat16, 2> out;
        for (int j = 0; j < 2; ++j)
          out.values[j] = BFloat16(gelu(sums[r][0][2 * lower + j]) * sums[r][1][2 * lower + j]);
        store_pack(work.gated + row * (work.columns / 2) + columns.first + quad * 2, out);
      } else {
#pragma unroll
        for (int tile = 0; tile < kColumnTiles; ++tile) {
          const Pack<float, 2> out{{sums[r][tile][2 * lower], sums[r][tile][2 * lower + 1]}};
          if constexpr (kEnding == Ending::kParts) {
            store_pack(work.out + (blockIdx.y * work.rows + row) * work.columns + columns.first +
                           tile * columns.apart + quad * 2,
                       out);
          } else {
            constexpr bool kPaired = kEnding == Ending::kRotated;  // its first tiles are side by side
            const int column = kPaired ? tile * kColumns / 2 + warp * 8 : (warp * kColumnTiles + tile) * 8;
            store_pack(block_sums + row * kSumPitch + column + quad * 2, out);
          }
        }
      }
    }
  }
  if constexpr (in_cluster(kEnding)) {
    sync_cluster();
    finish_rows<kEnding>(work, columns, block_sums);
    sync_cluster();  // nobody ends while its sums are being read
  }
}

int row_tiles(std::int64_t rows) {
  return static_cast<int>((rows + 15) / 16);
}

std::size_t shared_bytes(std::int64_t rows, std::int64_t slice) {
  const std::size_t padded = row_tiles(rows) * 16,
                    x = sizeof(BFloat16) * padded * pitch_of(static_cast<int>(slice));
  const std::size_t sums = sizeof(float) * padded * (kColumns + kSumPitch);  // exchanged, and of the block
  return std::max(x, sums);
}

template <int kRowTiles, bool kNormed, Ending kEnding>
void launch_for(const LinearLaunch& work, CudaStream stream) {
  const dim3 grid(static_cast<unsigned>(work.columns / kColumns), static_cast<unsigned>(work.parts));
  start(linear_kernel<kRowTiles, kNormed, kEnding>,
        {grid, kThreads, shared_bytes(work.rows, work.inner / work.parts),
         in_cluster(kEnding) ? work.parts : 1},
        stream, work);
}

constexpr int kFewTiles = kFewRows / 16;

template <Ending kEnding>
void launch_ending(const LinearLaunch& work, CudaStream stream) {
  switch (row_tiles(work.rows)) {
    case 1:
      return launch_for<1, false, kEnding>(work, stream);
    case 2:
      return launch_for<2, false, kEnding>(work, stream);
    case 3:
      return launch_for<3, false, kEnding>(work, stream);
    case 4:
      return launch_for<4, false, kEnding>(work, stream);
  }
  throw std::runtime_error("linear kernel: too many rows");
}

}  // namespace

std::int64_t linear_parts(std::int64_t rows, std::int64_t inner, std::int64_t columns, std::int64_t most) {
  constexpr std::int64_t kSlice = kHalves * kStep, kLeast = 256;  // a slice's multiple, and its least length
  if (rows < 1 || rows > kMaxLinearRows || columns % kColumns != 0 || inner % kSlice != 0) return 0;
  const auto memory = static_cast<std::size_t>(device_attribute(cudaDevAttrMaxSharedMemoryPerBlockOptin));
  const std::int64_t blocks = columns / kColumns,
                     processors = device_attribute(cudaDevAttrMultiProcessorCount);
  std::int64_t parts = 1;
  // About a block per multiprocessor: more parts would cost more to add up than they gain here.
  while (2 * parts <= most && parts * blocks < processors * 3 / 4 && inner % (2 * parts * kSlice) == 0 &&
         inner / (2 * parts) >= kLeast)
    parts *= 2;
  return shared_bytes(rows, inner / parts) <= memory ? parts : 0;
}

void launch(const LinearLaunch& work, CudaStream stream) {
  if (work.heads.q != nullptr) {
    launch_for<kFewTiles, true, Ending::kRotated>(work, stream);
  } else if (work.added.sum != nullptr) {
    launch_for<kFewTiles, false, Ending::kAdded>(work, stream);
  } else if (work.norm.x != nullptr) {
    launch_for<kFewTiles, true, Ending::kGated>(work, stream);
  } else if (work.gated != nullptr) {
    launch_ending<Ending::kGated>(work, stream);
  } else {
    launch_ending<Ending::kParts>(work, stream);
  }
}

}  // namespace shallowpi::fused
