#include "shallowpi/distill/append_file.h"

#include <fcntl.h>
#include <unistd.h>

#include "base/file_descriptor.h"
#include "shallowpi/base/error.h"
#include "shallowpi/base/text.h"

namespace shallowpi {

AppendFile::AppendFile(const std::filesystem::path& path) : path_(path) {
  FileDescriptor file = open_file(path, O_WRONLY | O_CREAT | O_APPEND);
  size_ = file.size();
  fd_ = file.release();
}

AppendFile::~AppendFile() {
  ::close(fd_);
}

void AppendFile::append(std::string_view bytes) {
  while (!bytes.empty()) {
    const ssize_t written = ::write(fd_, bytes.data(), bytes.size());
    if (written < 0 && errno == EINTR) continue;
    if (written < 0) throw_errno("cannot write", path_);
    bytes.remove_prefix(static_cast<std::size_t>(written));
    size_ += static_cast<std::uint64_t>(written);
  }
}

void AppendFile::sync() {
  if (::fsync(fd_) != 0) throw_errno("cannot write", path_);
}

void AppendFile::truncate(std::uint64_t size) {
  if (size > size_)
    throw CorruptError(str(path_.string(), ": has ", size_,
                           " bytes, but the checkpoint was taken when it had ", size,
                           "; the run cannot be continued with its own log"));
  if (::ftruncate(fd_, static_cast<off_t>(size)) != 0) throw_errno("cannot write", path_);
  size_ = size;
}

}  // namespace shallowpi
