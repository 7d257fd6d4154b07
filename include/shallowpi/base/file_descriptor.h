// A file descriptor that closes itself, and system calls that throw.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <string_view>
#include <utility>

namespace shallowpi {

/// Throws IoError "ACTION PATH: reason" from errno; with exit code 2 where the user named a file that is not
/// there or may not be read.
[[noreturn]] void throw_errno(std::string_view action, const std::filesystem::path& path);

/// Every method throws IoError that names the file.
class FileDescriptor {
 public:
  FileDescriptor(int fd, std::filesystem::path path) : fd_(fd), path_(std::move(path)) {}
  ~FileDescriptor();
  FileDescriptor(FileDescriptor&& other) noexcept;
  FileDescriptor& operator=(FileDescriptor&& other) noexcept;

  int get() const { return fd_; }
  const std::filesystem::path& path() const { return path_; }
  /// Before the end of this object.
  void close();
  std::uint64_t size() const;
  /// Up to `size` bytes from the current position; 0 at the end.
  std::size_t read(void* to, std::size_t size) const;
  /// Exactly `size` bytes at `offset`; false where the file ends before.
  bool read_at(void* to, std::size_t size, std::uint64_t offset) const;
  /// All bytes, whatever the system takes at a time.
  void write(std::string_view bytes) const;
  /// Does nothing for what cannot be synced, such as a pipe.
  void sync() const;

 private:
  int fd_;
  std::filesystem::path path_;
};

/// As open(2), always with O_CLOEXEC; new files get mode 0666 less the umask. /dev/fd/N is N, copied.
FileDescriptor open_file(const std::filesystem::path& path, int flags);

}  // namespace shallowpi
