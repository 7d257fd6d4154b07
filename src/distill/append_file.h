// Files that only grow, each record written by one call so that a kill leaves whole records.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string_view>

#include "shallowpi/base/file_descriptor.h"

namespace shallowpi {

/// Every method throws IoError that names the file.
class AppendFile {
 public:
  /// Opens or creates `path`.
  explicit AppendFile(const std::filesystem::path& path);

  void append(std::string_view bytes);
  /// Makes everything written so far durable.
  void sync() { file_.sync(); }
  std::uint64_t size() const { return size_; }
  /// Drops everything from byte `size` on; throws CorruptError where the file is shorter than that.
  void truncate(std::uint64_t size);
  const std::filesystem::path& path() const { return file_.path(); }

 private:
  FileDescriptor file_;
  std::uint64_t size_;
};

}  // namespace shallowpi
