#include "data/hdf5_rows.h"

#include <libdeflate.h>

#include <algorithm>
#include <utility>

#include "data/hdf5_heap.h"
#include "shallowpi/base/text.h"

namespace shallowpi::hdf5 {
namespace {

constexpr std::int64_t kMaxRows = 1'000'000;
constexpr std::size_t kMaxRowBytes = std::size_t{64} << 20;  // a 4096 x 4096 RGB frame is 48 MiB
constexpr std::size_t kMaxChunkBytes = std::size_t{256} << 20;

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

bool is_byte(hid_t type) {
  return H5Tget_class(type) == H5T_INTEGER && H5Tget_size(type) == 1 && H5Tget_sign(type) == H5T_SGN_NONE;
}

}  // namespace

ByteRows::ByteRows(std::shared_ptr<const File> file, std::string name)
    : file_(std::move(file)), name_(std::move(name)) {
  Lock lock;
  dataset_ = file_->open_dataset(name_);
  shape_ = shape_of(dataset_.get());
  const Handle type(H5Dget_type(dataset_.get()));
  const bool is_ragged = H5Tget_class(type.get()) == H5T_VLEN;
  const Handle element = is_ragged ? Handle(H5Tget_super(type.get())) : Handle(H5Tcopy(type.get()));
  if (!is_byte(element.get())) file_->fail(name_, "does not hold bytes (uint8)", "store frames as uint8");
  if (shape_.empty() || shape_.size() > 4 || shape_[0] > kMaxRows || (is_ragged && shape_.size() != 1)) {
    file_->fail(name_, str("has shape ", shape_text(shape_), ", which is no sequence of frames"),
                "store frames as [steps, height, width, 3], or as JPEG bytes per step");
  }
  if (shape_[0] == 0) file_->fail(name_, "has zero steps", "remove the demonstration from the file");
  double row_bytes = 1;
  for (std::size_t axis = 1; axis < shape_.size(); ++axis) row_bytes *= static_cast<double>(shape_[axis]);
  if (row_bytes < 1 || row_bytes > static_cast<double>(kMaxRowBytes)) {
    file_->fail(name_, str("has frames of shape ", shape_text(shape_)),
                "store frames of 1 to 4096 pixels a side");
  }
  row_bytes_ = static_cast<std::size_t>(row_bytes);
  if (is_ragged) {
    storage_ = Storage::kRagged;
  } else {
    find_storage();
  }
}

void ByteRows::find_storage() {
  const Handle plist(H5Dget_create_plist(dataset_.get()));
  const H5D_layout_t layout = H5Pget_layout(plist.get());
  if (layout == H5D_CONTIGUOUS) {
    const haddr_t offset = H5Dget_offset(dataset_.get());
    const std::uint64_t size = row_bytes_ * static_cast<std::uint64_t>(shape_[0]);
    if (offset == HADDR_UNDEF || offset < file_->user_block() || offset > file_->bytes() ||
        size > file_->bytes() - offset) {
      file_->fail(name_, "lies beyond the end of the file", "copy the file again from its source");
    }
    offset_ = offset - file_->user_block();
    storage_ = Storage::kContiguous;
    return;
  }
  if (layout != H5D_CHUNKED) return;
  std::vector<hsize_t> chunk(shape_.size());
  if (H5Pget_chunk(plist.get(), static_cast<int>(chunk.size()), chunk.data()) < 0) return;
  for (std::size_t axis = 1; axis < chunk.size(); ++axis) {
    if (static_cast<std::int64_t>(chunk[axis]) != shape_[axis]) return;
  }
  if (chunk[0] == 0 || chunk[0] > kMaxChunkBytes / row_bytes_) return;
  // Shuffling bytes of one-byte elements changes nothing, so only gzip is left to undo.
  int deflates = 0;
  const int filters = H5Pget_nfilters(plist.get());
  for (int i = 0; i < filters; ++i) {
    unsigned flags = 0;
    std::size_t values = 0;
    if (H5Pget_filter2(plist.get(), static_cast<unsigned>(i), &flags, &values, nullptr, 0, nullptr,
                       nullptr) == H5Z_FILTER_DEFLATE) {
      deflate_bit_ = 1u << i;
      ++deflates;
    }
  }
  if (deflates > 1) return;
  rows_per_chunk_ = static_cast<std::int64_t>(chunk[0]);
  storage_ = Storage::kChunks;
}

void ByteRows::fail(std::int64_t row, std::string_view problem) const {
  file_->fail(name_, str("step ", row, ": ", problem),
              "copy the file again from its source, or remove the demonstration");
}

std::vector<std::uint8_t> ByteRows::read(std::int64_t row) const {
  if (row < 0 || row >= shape_[0]) fail(row, str("there are only ", shape_[0], " steps"));
  switch (storage_) {
    case Storage::kContiguous:
      return read_contiguous(row);
    case Storage::kChunks:
      return read_from_chunk(row);
    case Storage::kRagged:
      return read_ragged(row);
    case Storage::kOther:
      break;
  }
  return read_by_library(row);
}

std::vector<std::uint8_t> ByteRows::read_contiguous(std::int64_t row) const {
  std::vector<std::uint8_t> bytes(row_bytes_);
  if (!file_->read_at(offset_ + static_cast<std::uint64_t>(row) * row_bytes_, bytes.data(), row_bytes_)) {
    fail(row, "cannot be read from the file");
  }
  return bytes;
}

std::vector<std::uint8_t> ByteRows::read_from_chunk(std::int64_t row) const {
  thread_local std::vector<std::uint8_t> packed, unpacked;
  const std::size_t chunk_bytes = row_bytes_ * static_cast<std::size_t>(rows_per_chunk_);
  const std::int64_t first_row = row / rows_per_chunk_ * rows_per_chunk_;
  std::uint32_t skipped_filters = 0;
  {
    Lock lock;
    std::vector<hsize_t> at(shape_.size(), 0);
    at[0] = static_cast<hsize_t>(first_row);
    hsize_t stored = 0;
    if (H5Dget_chunk_storage_size(dataset_.get(), at.data(), &stored) < 0 || stored == 0) {
      fail(row, "the frame was never written");
    }
    // Incompressible data grows by less than this when deflated.
    if (stored > chunk_bytes + chunk_bytes / 100 + 1024)
      fail(row, "the stored chunk is larger than its content");
    packed.resize(stored);
    if (H5Dread_chunk(dataset_.get(), H5P_DEFAULT, at.data(), &skipped_filters, packed.data()) < 0) {
      fail(row, str("cannot be read (", last_error(), ")"));
    }
  }
  const std::size_t begin = static_cast<std::size_t>(row - first_row) * row_bytes_;
  const bool is_deflated = deflate_bit_ != 0 && (skipped_filters & deflate_bit_) == 0;
  if (!is_deflated) {
    if (packed.size() != chunk_bytes) fail(row, "the stored chunk has the wrong size");
    return {packed.begin() + begin, packed.begin() + begin + row_bytes_};
  }
  if (rows_per_chunk_ == 1) {
    std::vector<std::uint8_t> bytes(row_bytes_);
    if (!inflate(packed, bytes.data(), bytes.size())) fail(row, "the compressed data is damaged");
    return bytes;
  }
  unpacked.resize(chunk_bytes);
  if (!inflate(packed, unpacked.data(), chunk_bytes)) fail(row, "the compressed data is damaged");
  return {unpacked.begin() + begin, unpacked.begin() + begin + row_bytes_};
}

std::vector<std::uint8_t> ByteRows::read_by_library(std::int64_t row) const {
  Lock lock;
  std::vector<std::uint8_t> bytes(row_bytes_);
  std::vector<hsize_t> start(shape_.size(), 0), count(shape_.begin(), shape_.end());
  start[0] = static_cast<hsize_t>(row);
  count[0] = 1;
  const Handle space(H5Dget_space(dataset_.get()));
  const Handle memory(H5Screate_simple(static_cast<int>(count.size()), count.data(), nullptr));
  H5Sselect_hyperslab(space.get(), H5S_SELECT_SET, start.data(), nullptr, count.data(), nullptr);
  if (H5Dread(dataset_.get(), H5T_NATIVE_UINT8, memory.get(), space.get(), H5P_DEFAULT, bytes.data()) < 0) {
    fail(row, str("cannot be read (", last_error(), ")"));
  }
  return bytes;
}

std::vector<std::uint8_t> ByteRows::read_ragged(std::int64_t row) const {
  HeapReference reference{};
  {
    Lock lock;
    const hsize_t start = static_cast<hsize_t>(row), one = 1;
    const Handle space(H5Dget_space(dataset_.get()));
    const Handle memory(H5Screate_simple(1, &one, nullptr));
    H5Sselect_hyperslab(space.get(), H5S_SELECT_SET, &start, nullptr, &one, nullptr);
    if (H5Dread(dataset_.get(), heap_reference_type().get(), memory.get(), space.get(), H5P_DEFAULT,
                reference.data()) < 0) {
      fail(row, str("cannot be read (", last_error(), ")"));
    }
  }
  std::vector<std::uint8_t> bytes = read_heap(*file_, reference, str(name_, " step ", row), kMaxRowBytes);
  if (bytes.empty()) fail(row, "the frame was never written");
  return bytes;
}

}  // namespace shallowpi::hdf5
