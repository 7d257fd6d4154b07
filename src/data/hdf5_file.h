// HDF5 files read with distrust: only plain datasets that lie in the file itself,
// of the expected types and sizes.
//
// All calls into libhdf5 belong into the child process of hdf5_child.h, which has one thread: the library
// crashes on damaged files and Debian's is not thread-safe. Filter plug-ins are switched off and the
// library's own error printing is silenced. All errors are CorruptError and name file and dataset.
#pragma once

#define H5_USE_110_API  // later versions keep these signatures under this name
#include <hdf5.h>

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "data/hdf5_raw_file.h"

namespace shallowpi::hdf5 {

/// The most steps of one demonstration: fourteen hours at 20 Hz.
inline constexpr std::int64_t kMaxRows = 1'000'000;

/// Rows of a small table, [rows][columns].
using Matrix = std::vector<std::vector<float>>;

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

/// What HDF5 says about its last failure, such as "truncated file: eof = 800,
/// ..."; empty where it says nothing.
std::string last_error();

class File {
 public:
  /// Throws UsageError where there is no such file, CorruptError where it is empty, truncated or not HDF5.
  explicit File(const std::filesystem::path& path);

  const std::filesystem::path& path() const { return raw_.path(); }
  const RawFile& raw() const { return raw_; }

  /// Whether there is such an object. Throws where a link on the way to it leaves the file or is a soft link.
  bool has(const std::string& name) const;
  bool is_group(const std::string& name) const;
  /// Names within a group, in the library's (lexicographic) order.
  std::vector<std::string> children(const std::string& group) const;
  /// A text attribute of an object ("/" for the root); nothing where it is missing or not one text. Throws
  /// CorruptError where it is damaged.
  std::optional<std::string> text_attribute(const std::string& object, const std::string& attribute) const;
  /// A number; nothing where it is missing or not one number.
  std::optional<double> number_attribute(const std::string& object, const std::string& attribute) const;
  /// A dataset of texts, [T] or a single one.
  std::vector<std::string> read_texts(const std::string& name) const;
  /// Opens a dataset after checking links, storage (no external files, no virtual datasets) and filters.
  Handle open_dataset(const std::string& name) const;
  /// All of an opened dataset's elements as `type`.
  void read_all(const Handle& dataset, hid_t type, void* to, const std::string& name) const;
  /// A table of floats, all finite: [T, columns], or [T, 1..max_columns] where `columns` is 0.
  Matrix read_matrix(const std::string& name, std::int64_t columns, std::int64_t max_columns = 32) const;

  /// Throws CorruptError "path: name problem; remedy".
  [[noreturn]] void fail(std::string_view name, std::string_view problem, std::string_view remedy) const {
    raw_.fail(name, problem, remedy);
  }

 private:
  Handle open_attribute(const std::string& object, const std::string& attribute) const;

  RawFile raw_;
  Handle handle_;
};

/// The current extent of a dataset; empty for a scalar.
std::vector<std::int64_t> shape_of(hid_t dataset);
/// The filters of a dataset's property list, in the order of their bits in a chunk's mask.
std::vector<H5Z_filter_t> filters_of(hid_t plist);

}  // namespace shallowpi::hdf5
