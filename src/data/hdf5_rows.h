// Datasets of bytes whose first axis is time (camera frames): where each row lies,
// and reading one without libhdf5.
#pragma once

#include <array>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>
#include <vector>

#include "data/hdf5_heap.h"
#include "data/hdf5_raw_file.h"

namespace shallowpi::hdf5 {

enum class Storage {
  kInline,      ///< `bytes` are the data
  kContiguous,  ///< one block at `offset`
  kChunks,      ///< a grid of chunks, plain or deflated
  kRagged       ///< byte strings of any length
};

struct StoredChunk {
  std::uint64_t address = 0, size = 0;  ///< size 0: never written
  bool is_deflated = false;
};

/// What find_rows (hdf5_index.h) learns about a dataset of uint8: [T, ...], or [T]
/// of byte strings of any length.
struct RowIndex {
  std::string name;
  std::vector<std::int64_t> shape;  ///< kRagged: [T]
  Storage storage = Storage::kInline;
  std::vector<std::uint8_t> bytes;
  std::uint64_t offset = 0;
  std::vector<std::int64_t> chunk_shape;  ///< as many axes as `shape`
  std::vector<StoredChunk> chunks;        ///< row-major over the grid
  std::vector<HeapReference> references;  ///< kRagged: per row
};

// NOLINTBEGIN: the child sends these as CBOR
NLOHMANN_DEFINE_TYPE_NON_INTRUSIVE(StoredChunk, address, size, is_deflated)
NLOHMANN_DEFINE_TYPE_NON_INTRUSIVE(RowIndex, name, shape, storage, bytes, offset, chunk_shape, chunks,
                                   references)
// NOLINTEND

/// Number of chunks along an axis.
std::int64_t chunk_count(const RowIndex& index, std::size_t axis);
/// Bytes of one row and of one chunk.
std::size_t row_bytes(const RowIndex& index);
std::size_t chunk_bytes(const RowIndex& index);

/// The bytes of one row; safe to call from several threads. Throws CorruptError
/// where they are missing or damaged.
std::vector<std::uint8_t> read_row(const RawFile& file, const RowIndex& index, std::int64_t row);

/// Throws CorruptError that names the file, the dataset and the row.
[[noreturn]] void fail_row(const RawFile& file, const RowIndex& index, std::int64_t row,
                           std::string_view problem);

constexpr std::size_t kMaxRowBytes = std::size_t{64} << 20;  ///< a 4096 x 4096 RGB frame is 48 MiB
constexpr std::size_t kMaxChunkBytes = std::size_t{256} << 20;

}  // namespace shallowpi::hdf5
