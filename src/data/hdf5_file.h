// HDF5 files read with distrust: only plain datasets that lie in the file itself, of the expected types and
// sizes.
//
// Debian's libhdf5 is not thread-safe, so every call into it happens under one process-wide lock; filter
// plug-ins are switched off and the library's own error printing is silenced. All errors are CorruptError and
// name file and dataset.
#pragma once

#define H5_USE_110_API  // later versions keep these signatures under this name
#include <hdf5.h>

#include <cstdint>
#include <filesystem>
#include <mutex>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace shallowpi::hdf5 {

/// Rows of a small table, [rows][columns].
using Matrix = std::vector<std::vector<float>>;

/// Held around every call into the library.
class Lock {
 public:
  Lock();

 private:
  std::lock_guard<std::recursive_mutex> guard_;
};

/// Owns an identifier of any kind (file, dataset, type, ...).
class Handle {
 public:
  Handle() = default;
  explicit Handle(hid_t id) : id_(id) {}
  ~Handle();
  Handle(Handle&& other) noexcept : id_(std::exchange(other.id_, -1)) {}
  Handle& operator=(Handle&& other) noexcept {
    std::swap(id_, other.id_);
    return *this;
  }
  hid_t get() const { return id_; }
  explicit operator bool() const { return id_ >= 0; }

 private:
  hid_t id_ = -1;
};

/// What HDF5 says about its last failure, such as "truncated file: eof = 800, ..."; empty where it says
/// nothing.
std::string last_error();

class File {
 public:
  /// Throws UsageError where there is no such file, CorruptError where it is empty, truncated or not HDF5.
  explicit File(std::filesystem::path path);
  ~File();
  File(const File&) = delete;
  File& operator=(const File&) = delete;

  const std::filesystem::path& path() const { return path_; }
  std::uint64_t bytes() const { return bytes_; }
  std::uint64_t user_block() const { return user_block_; }
  /// Reads at an address as the library gives it, without its lock; false where the file ends before.
  bool read_at(std::uint64_t address, void* out, std::size_t size) const;

  /// Is there such an object? Throws where a link on the way to it leaves the file or is a soft link.
  bool has(const std::string& name) const;
  bool is_group(const std::string& name) const;
  /// Names within a group, in the library's (lexicographic) order.
  std::vector<std::string> children(const std::string& group) const;
  /// A text attribute of an object ("/" for the root); nothing where it is missing or not one text. Throws
  /// CorruptError where it is damaged.
  std::optional<std::string> text_attribute(const std::string& object, const std::string& attribute) const;
  /// Opens a dataset after checking links, storage (no external files, no virtual datasets) and filters.
  Handle open_dataset(const std::string& name) const;
  /// A table of floats, all finite: [T, columns], or [T, 1..max_columns] where `columns` is 0.
  Matrix read_matrix(const std::string& name, std::int64_t columns, std::int64_t max_columns = 32) const;

  /// Throws CorruptError "path: name problem; remedy".
  [[noreturn]] void fail(std::string_view name, std::string_view problem, std::string_view remedy) const;

 private:
  std::optional<std::string> read_text(hid_t attribute, const std::string& name) const;

  std::filesystem::path path_;
  std::uint64_t bytes_ = 0;
  std::uint64_t user_block_ = 0;  // addresses count from its end
  int descriptor_ = -1;
  Handle handle_;
};

/// The current extent of a dataset; empty for a scalar. Under the caller's Lock.
std::vector<std::int64_t> shape_of(hid_t dataset);

}  // namespace shallowpi::hdf5
