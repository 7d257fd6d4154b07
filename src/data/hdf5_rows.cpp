#include "data/hdf5_rows.h"

#include <libdeflate.h>

#include <algorithm>
#include <cstring>
#include <functional>
#include <numeric>

#include "shallowpi/base/text.h"

namespace shallowpi::hdf5 {
namespace {

struct Inflater {
  libdeflate_decompressor* handle = libdeflate_alloc_decompressor();
  ~Inflater() { libdeflate_free_decompressor(handle); }
};

// Fills exactly `size` bytes of `out` from a zlib stream.
bool inflate(const std::vector<std::uint8_t>& packed, std::uint8_t* out, std::size_t size) {
  thread_local Inflater inflater;
  return libdeflate_zlib_decompress(inflater.handle, packed.data(), packed.size(), out, size, nullptr) ==
         LIBDEFLATE_SUCCESS;
}

std::size_t product(std::vector<std::int64_t>::const_iterator begin,
                    std::vector<std::int64_t>::const_iterator end) {
  return static_cast<std::size_t>(std::accumulate(begin, end, std::int64_t{1}, std::multiplies<>()));
}

std::vector<std::uint8_t> read_block(const RawFile& file, const RowIndex& index, std::int64_t row) {
  std::vector<std::uint8_t> bytes(row_bytes(index));
  if (!file.read_at(index.offset + static_cast<std::uint64_t>(row) * bytes.size(), bytes.data(),
                    bytes.size()))
    fail_row(file, index, row, "cannot be read from the file");
  return bytes;
}

// The content of a chunk of chunk_bytes(index) bytes, in `out`.
void read_chunk(const RawFile& file, const RowIndex& index, const StoredChunk& chunk, std::int64_t row,
                std::uint8_t* out) {
  thread_local std::vector<std::uint8_t> packed;
  const std::size_t size = chunk_bytes(index);
  if (chunk.size == 0) fail_row(file, index, row, "the frame was never written");
  // Incompressible data grows by less than this when deflated.
  if (chunk.size > size + size / 100 + 1024)
    fail_row(file, index, row, "the stored chunk is larger than its content");
  if (!chunk.is_deflated) {
    if (chunk.size != size) fail_row(file, index, row, "the stored chunk has the wrong size");
    if (!file.read_at(chunk.address, out, size))
      fail_row(file, index, row, "lies beyond the end of the file");
    return;
  }
  packed.resize(chunk.size);
  if (!file.read_at(chunk.address, packed.data(), packed.size()))
    fail_row(file, index, row, "lies beyond the end of the file");
  if (!inflate(packed, out, size)) fail_row(file, index, row, "the compressed data is damaged");
}

// Copies the part of a row that a chunk holds; `at` is the chunk's place in the grid. Axes from `axis` on are
// left; `to` and `from` point to their beginnings.
void copy_part(const RowIndex& index, const std::vector<std::int64_t>& at, std::size_t axis,
               const std::uint8_t* from, std::uint8_t* to) {
  if (axis == index.shape.size()) {
    *to = *from;
    return;
  }
  const std::int64_t begin = at[axis] * index.chunk_shape[axis];
  const std::int64_t count = std::min(index.chunk_shape[axis], index.shape[axis] - begin);
  const auto next = static_cast<std::ptrdiff_t>(axis + 1);
  const std::size_t to_step = product(index.shape.begin() + next, index.shape.end());
  const std::size_t from_step = product(index.chunk_shape.begin() + next, index.chunk_shape.end());
  to += static_cast<std::size_t>(begin) * to_step;
  if (axis + 1 == index.shape.size()) {
    std::memcpy(to, from, static_cast<std::size_t>(count));
    return;
  }
  for (std::int64_t i = 0; i < count; ++i, from += from_step, to += to_step)
    copy_part(index, at, axis + 1, from, to);
}

std::vector<std::uint8_t> read_from_chunks(const RawFile& file, const RowIndex& index, std::int64_t row) {
  thread_local std::vector<std::uint8_t> unpacked;
  std::vector<std::uint8_t> bytes(row_bytes(index));
  std::size_t per_row = 1;  // chunks that a row is cut into
  for (std::size_t axis = 1; axis < index.shape.size(); ++axis)
    per_row *= static_cast<std::size_t>(chunk_count(index, axis));
  const std::int64_t first = row / index.chunk_shape[0];
  const std::uint64_t row_in_chunk = static_cast<std::uint64_t>(row % index.chunk_shape[0]);
  const std::size_t size = chunk_bytes(index);
  const std::size_t offset = row_in_chunk * (size / static_cast<std::size_t>(index.chunk_shape[0]));
  std::vector<std::int64_t> at(index.shape.size(), 0);
  for (std::size_t i = 0; i < per_row; ++i) {
    const StoredChunk& chunk = index.chunks[static_cast<std::size_t>(first) * per_row + i];
    if (per_row == 1 && size == bytes.size()) {
      read_chunk(file, index, chunk, row, bytes.data());
      return bytes;
    }
    unpacked.resize(size);
    read_chunk(file, index, chunk, row, unpacked.data());
    copy_part(index, at, 1, unpacked.data() + offset, bytes.data());
    for (std::size_t axis = at.size() - 1; axis > 0 && ++at[axis] == chunk_count(index, axis); --axis)
      at[axis] = 0;
  }
  return bytes;
}

std::vector<std::uint8_t> read_ragged(const RawFile& file, const RowIndex& index, std::int64_t row) {
  std::vector<std::uint8_t> bytes = read_heap(file, index.references[static_cast<std::size_t>(row)],
                                              str(index.name, " step ", row), kMaxRowBytes);
  if (bytes.empty()) fail_row(file, index, row, "the frame was never written");
  return bytes;
}

}  // namespace

std::int64_t chunk_count(const RowIndex& index, std::size_t axis) {
  return (index.shape[axis] + index.chunk_shape[axis] - 1) / index.chunk_shape[axis];
}

std::size_t row_bytes(const RowIndex& index) {
  return product(index.shape.begin() + 1, index.shape.end());
}

std::size_t chunk_bytes(const RowIndex& index) {
  return product(index.chunk_shape.begin(), index.chunk_shape.end());
}

void fail_row(const RawFile& file, const RowIndex& index, std::int64_t row, std::string_view problem) {
  file.fail(index.name, str("step ", row, ": ", problem), str(kRecopy, ", or remove the demonstration"));
}

std::vector<std::uint8_t> read_row(const RawFile& file, const RowIndex& index, std::int64_t row) {
  if (row < 0 || row >= index.shape[0])
    fail_row(file, index, row, str("there are only ", index.shape[0], " steps"));
  switch (index.storage) {
    case Storage::kContiguous:
      return read_block(file, index, row);
    case Storage::kChunks:
      return read_from_chunks(file, index, row);
    case Storage::kRagged:
      return read_ragged(file, index, row);
    case Storage::kInline:
      break;
  }
  const auto begin = index.bytes.begin() + static_cast<std::ptrdiff_t>(row_bytes(index)) * row;
  return {begin, begin + static_cast<std::ptrdiff_t>(row_bytes(index))};
}

}  // namespace shallowpi::hdf5
