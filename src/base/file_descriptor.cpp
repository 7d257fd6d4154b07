#include "shallowpi/base/file_descriptor.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <cstring>
#include <optional>
#include <string>
#include <utility>

#include "shallowpi/base/error.h"
#include "shallowpi/base/text.h"

namespace shallowpi {
namespace {

/// The most bytes of one read or write; Linux itself stops at 2 GiB.
constexpr std::size_t kMaxTransfer = std::size_t{1} << 30;

/// N of "/dev/fd/N" and "/proc/self/fd/N".
std::optional<int> descriptor_number(const std::filesystem::path& path) {
  const std::string folder = path.parent_path().string(), name = path.filename().string();
  int number = -1;
  if ((folder != "/dev/fd" && folder != "/proc/self/fd") ||
      std::from_chars(name.data(), name.data() + name.size(), number).ptr != name.data() + name.size())
    return std::nullopt;
  return number;
}

}  // namespace

void throw_errno(std::string_view action, const std::filesystem::path& path) {
  const int code = errno;
  const bool users_fault =
      code == ENOENT || code == ENOTDIR || code == EISDIR || code == EACCES || code == ELOOP;
  throw IoError(str(action, " ", path.string(), ": ", std::strerror(code)),
                users_fault ? ExitCode::kUsage : ExitCode::kFailed);
}

FileDescriptor::~FileDescriptor() {
  close();
}

FileDescriptor::FileDescriptor(FileDescriptor&& other) noexcept
    : fd_(std::exchange(other.fd_, -1)), path_(std::move(other.path_)) {}

FileDescriptor& FileDescriptor::operator=(FileDescriptor&& other) noexcept {
  std::swap(fd_, other.fd_);
  std::swap(path_, other.path_);
  return *this;
}

void FileDescriptor::close() {
  if (fd_ >= 0) ::close(std::exchange(fd_, -1));
}

std::uint64_t FileDescriptor::size() const {
  struct stat status;
  if (::fstat(fd_, &status) != 0) throw_errno("cannot read", path_);
  return static_cast<std::uint64_t>(status.st_size);
}

std::size_t FileDescriptor::read(void* to, std::size_t size) const {
  for (;;) {
    const ssize_t got = ::read(fd_, to, std::min(size, kMaxTransfer));
    if (got >= 0) return static_cast<std::size_t>(got);
    if (errno != EINTR) throw_errno("cannot read", path_);
  }
}

bool FileDescriptor::read_at(void* to, std::size_t size, std::uint64_t offset) const {
  char* at = static_cast<char*>(to);
  while (size > 0) {
    const ssize_t got = ::pread(fd_, at, std::min(size, kMaxTransfer), static_cast<off_t>(offset));
    if (got == 0) return false;
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) throw_errno("cannot read", path_);
    at += got;
    size -= static_cast<std::size_t>(got);
    offset += static_cast<std::uint64_t>(got);
  }
  return true;
}

void FileDescriptor::write(std::string_view bytes) const {
  while (!bytes.empty()) {
    const ssize_t put = ::write(fd_, bytes.data(), std::min(bytes.size(), kMaxTransfer));
    if (put < 0 && errno == EINTR) continue;
    if (put < 0) throw_errno("cannot write", path_);
    bytes.remove_prefix(static_cast<std::size_t>(put));
  }
}

void FileDescriptor::sync() const {
  while (::fsync(fd_) != 0) {
    if (errno == EINVAL) return;  // a pipe or a terminal
    if (errno != EINTR) throw_errno("cannot write (fsync)", path_);
  }
}

FileDescriptor open_file(const std::filesystem::path& path, int flags) {
  if (const auto number = descriptor_number(path)) {
    const int copy = ::fcntl(*number, F_DUPFD_CLOEXEC, 0);
    if (copy < 0) throw_errno("cannot open", path);
    return {copy, path};
  }
  for (;;) {
    const int fd = ::open(path.c_str(), flags | O_CLOEXEC, 0666);
    if (fd >= 0) return {fd, path};
    if (errno != EINTR) throw_errno("cannot open", path);
  }
}

}  // namespace shallowpi
