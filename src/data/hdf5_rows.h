// Datasets of bytes whose first axis is time (camera frames), read one step at a time by many threads.
#pragma once

#include <memory>

#include "data/hdf5_file.h"

namespace shallowpi::hdf5 {

/// One dataset of uint8: [T, ...], or [T] of byte strings of any length. The library's lock is held only to
/// find the stored bytes; reading contiguous data and inflating gzip chunks happen outside it, so that
/// readers scale.
class ByteRows {
 public:
  /// Throws CorruptError where the dataset is missing, not of bytes, or of unreasonable size.
  ByteRows(std::shared_ptr<const File> file, std::string name);

  const std::string& name() const { return name_; }
  const std::vector<std::int64_t>& shape() const { return shape_; }
  /// Rows are byte strings of any length, and shape() is [T].
  bool is_ragged() const { return storage_ == Storage::kRagged; }
  /// The bytes of one row. Throws CorruptError where they are missing or damaged.
  std::vector<std::uint8_t> read(std::int64_t row) const;
  /// Throws CorruptError that names the file, this dataset and the row.
  [[noreturn]] void fail(std::int64_t row, std::string_view problem) const;

 private:
  enum class Storage {
    kContiguous,  ///< one block at a known offset
    kChunks,      ///< chunks of whole rows, plain or deflated
    kRagged,      ///< byte strings of any length
    kOther        ///< anything else that the library itself has to assemble
  };
  void find_storage();
  std::vector<std::uint8_t> read_contiguous(std::int64_t row) const;
  std::vector<std::uint8_t> read_from_chunk(std::int64_t row) const;
  std::vector<std::uint8_t> read_by_library(std::int64_t row) const;
  std::vector<std::uint8_t> read_ragged(std::int64_t row) const;

  std::shared_ptr<const File> file_;
  std::string name_;
  Handle dataset_;
  std::vector<std::int64_t> shape_;
  std::size_t row_bytes_ = 0;
  Storage storage_ = Storage::kOther;
  std::uint64_t offset_ = 0;         // kContiguous
  std::int64_t rows_per_chunk_ = 1;  // kChunks
  std::uint32_t deflate_bit_ =
      0;  // kChunks: the filter's bit in a chunk's mask of skipped filters; 0: no filter
};

}  // namespace shallowpi::hdf5
