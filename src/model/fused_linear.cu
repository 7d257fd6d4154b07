// Products with few rows. Reading the weight once, from many multiprocessors at a time, is all their cost; so
// the weight goes straight from memory into registers, 16 bytes per lane, and the inner dimension is permuted
// alike in both operands so that those bytes are what PTX's mma wants.
#include "model/fused_device.cuh"

namespace shallowpi::fused {
namespace {

constexpr int kColumnWarps = 4;  // warps side by side; each group of them takes a half of the slice
constexpr int kHalves = 2, kThreads = kHalves * kColumnWarps * kWarp;
constexpr int kStep = 4 * kVector;  // inner values that a warp consumes per load: 4 lanes share a row
constexpr int kColumnTiles = 2;     // of 8 columns, per warp
constexpr int kColumns = kColumnWarps * kColumnTiles * 8;  // of a block
constexpr int kUnroll = 4;                                 // steps whose loads are under way together

/// Values from row to row of x in shared memory: 64 bytes off a multiple of 128, so that the rows of
/// neighbouring lanes fall into different banks.
__host__ __device__ constexpr int pitch_of(int slice) {
  return (slice + 63) / 64 * 64 + 32;
}

using Vector = uint4;

__device__ Vector load_once(const BFloat16* from) {
  Vector value;
  asm volatile("ld.global.nc.L1::no_allocate.v4.u32 {%0,%1,%2,%3}, [%4];"
               : "=r"(value.x), "=r"(value.y), "=r"(value.z), "=r"(value.w)
               : "l"(from));
  return value;
}

/// Blocks are (columns, part). In the gated form a warp's two tiles are the same columns of both halves.
template <int kRowTiles, bool kGated>
__global__ void __launch_bounds__(kThreads) linear_kernel(LinearLaunch work) {
  constexpr int kRows = kRowTiles * 16;
  extern __shared__ __align__(128) unsigned char raw[];
  BFloat16* x = reinterpret_cast<BFloat16*>(raw);
  const int warp = threadIdx.x / kWarp % kColumnWarps, half = threadIdx.x / kWarp / kColumnWarps;
  const int lane = threadIdx.x % kWarp, group = lane / 4, quad = lane % 4;
  const int inner = int(work.inner), slice = inner / int(work.parts), begin = blockIdx.y * slice;
  const int pitch = pitch_of(slice), width = slice / kHalves, mine = half * width;

  int columns[kColumnTiles];  // where the warp's tiles start
  const BFloat16* weight[kColumnTiles];
#pragma unroll
  for (int tile = 0; tile < kColumnTiles; ++tile) {
    columns[tile] = kGated ? tile * int(work.columns / 2) + (blockIdx.x * kColumnWarps + warp) * 8
                           : ((blockIdx.x * kColumnWarps + warp) * kColumnTiles + tile) * 8;
    weight[tile] = work.weight + std::int64_t(columns[tile] + group) * inner + begin + mine + quad * kVector;
  }
  Vector next[kUnroll][kColumnTiles];
  const auto fetch = [&](int offset) {
#pragma unroll
    for (int u = 0; u < kUnroll; ++u)
#pragma unroll
      for (int tile = 0; tile < kColumnTiles; ++tile)
        if (offset + u * kStep < width) next[u][tile] = load_once(weight[tile] + offset + u * kStep);
  };
  fetch(0);  // the weight is no kernel's output
  wait_for_previous();

  const int vectors = slice / kVector;
  for (int i = threadIdx.x; i < kRows * vectors; i += kThreads) {
    const int row = i / vectors, column = i % vectors * kVector;
    const bool valid = row < work.rows;
    copy_async(x + row * pitch + column, work.x + (valid ? row * work.inner + begin + column : 0), valid);
  }
  commit_copies();
  wait_for_copies<0>();
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
  float4* exchange = reinterpret_cast<float4*>(raw) + threadIdx.x % (kColumnWarps * kWarp);
  __syncthreads();
#pragma unroll
  for (int r = 0; r < kRowTiles; ++r)
#pragma unroll
    for (int tile = 0; tile < kColumnTiles; ++tile)
      if (half == 1)
        exchange[(r * kColumnTiles + tile) * kColumnWarps * kWarp] =
            make_float4(sums[r][tile][0], sums[r][tile][1], sums[r][tile][2], sums[r][tile][3]);
  __syncthreads();
  if (half == 1) return;
#pragma unroll
  for (int r = 0; r < kRowTiles; ++r) {
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
      if constexpr (kGated) {
        Pack<BFloat16, 2> out;
        for (int j = 0; j < 2; ++j)
          out.values[j] = BFloat16(gelu(sums[r][0][2 * lower + j]) * sums[r][1][2 * lower + j]);
        store_pack(work.gated + row * (work.columns / 2) + columns[0] + quad * 2, out);
      } else {
#pragma unroll
        for (int tile = 0; tile < kColumnTiles; ++tile) {
          const Pack<float, 2> out{{sums[r][tile][2 * lower], sums[r][tile][2 * lower + 1]}};
          store_pack(work.out + (blockIdx.y * work.rows + row) * work.columns + columns[tile] + quad * 2,
                     out);
        }
      }
    }
  }
}

int row_tiles(std::int64_t rows) {
  return static_cast<int>((rows + 15) / 16);
}

std::size_t shared_bytes(std::int64_t rows, std::int64_t slice) {
  const std::size_t x = sizeof(BFloat16) * row_tiles(rows) * 16 * pitch_of(static_cast<int>(slice));
  return std::max(x, sizeof(float4) * row_tiles(rows) * kColumnTiles * kColumnWarps * kWarp);
}

template <int kRowTiles, bool kGated>
void launch_for(const LinearLaunch& work, CudaStream stream) {
  const std::size_t bytes = shared_bytes(work.rows, work.inner / work.parts);
  const dim3 grid(static_cast<unsigned>(work.columns / kColumns), static_cast<unsigned>(work.parts));
  start(linear_kernel<kRowTiles, kGated>, grid, kThreads, bytes, stream, work);
}

template <bool kGated>
void launch_gated(const LinearLaunch& work, CudaStream stream) {
  switch (row_tiles(work.rows)) {
    case 1:
      return launch_for<1, kGated>(work, stream);
    case 2:
      return launch_for<2, kGated>(work, stream);
    case 3:
      return launch_for<3, kGated>(work, stream);
    case 4:
      return launch_for<4, kGated>(work, stream);
  }
  throw std::runtime_error("linear kernel: too many rows");
}

}  // namespace

std::int64_t linear_parts(std::int64_t rows, std::int64_t inner, std::int64_t columns, bool gated) {
  constexpr std::int64_t kSlice = kHalves * kStep, kLeast = 256;  // a slice's multiple, and its least length
  if (rows < 1 || rows > kMaxLinearRows || columns % kColumns != 0 || inner % kSlice != 0) return 0;
  const auto most = static_cast<std::size_t>(device_attribute(cudaDevAttrMaxSharedMemoryPerBlockOptin));
  const std::int64_t blocks = columns / kColumns,
                     processors = device_attribute(cudaDevAttrMultiProcessorCount);
  std::int64_t parts = 1;
  // About a block per multiprocessor: more parts would cost the next operation more than they gain here.
  while (!gated && parts * blocks < processors * 3 / 4 && inner % (2 * parts * kSlice) == 0 &&
         inner / (2 * parts) >= kLeast)
    parts *= 2;
  return shared_bytes(rows, inner / parts) <= most ? parts : 0;
}

void launch(const LinearLaunch& work, CudaStream stream) {
  work.gated != nullptr ? launch_gated<true>(work, stream) : launch_gated<false>(work, stream);
}

}  // namespace shallowpi::fused
