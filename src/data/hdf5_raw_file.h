// The bytes of a demonstration file, read at addresses that were checked or are checked here.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string_view>

#include "shallowpi/base/file_descriptor.h"

namespace shallowpi::hdf5 {

/// What to do about a damaged file.
inline constexpr const char* kRecopy = "copy the file again from its source";
/// What to do about a demonstration that was recorded wrongly.
inline constexpr const char* kRerecord = "record the demonstration again or remove it from the file";

class RawFile {
 public:
  /// Throws UsageError where there is no such file, CorruptError where it is empty.
  explicit RawFile(const std::filesystem::path& path);

  const std::filesystem::path& path() const { return descriptor_.path(); }
  std::uint64_t bytes() const { return bytes_; }
  /// Whether [address, address + size) lies in the file.
  bool holds(std::uint64_t address, std::uint64_t size) const {
    return address <= bytes_ && size <= bytes_ - address;
  }
  /// False where the file ends before. Safe to call from several threads.
  bool read_at(std::uint64_t address, void* out, std::size_t size) const {
    return holds(address, size) && descriptor_.read_at(out, size, address);
  }
  /// Throws CorruptError "path: name problem; remedy".
  [[noreturn]] void fail(std::string_view name, std::string_view problem, std::string_view remedy) const;

 private:
  FileDescriptor descriptor_;
  std::uint64_t bytes_ = 0;
};

}  // namespace shallowpi::hdf5
