#include "distill/append_file.h"

#include <fcntl.h>
#include <unistd.h>

#include "shallowpi/base/error.h"
#include "shallowpi/base/text.h"

namespace shallowpi {

AppendFile::AppendFile(const std::filesystem::path& path)
    : file_(open_file(path, O_WRONLY | O_CREAT | O_APPEND)), size_(file_.size()) {}

void AppendFile::append(std::string_view bytes) {
  file_.write(bytes);
  size_ += bytes.size();
}

void AppendFile::truncate(std::uint64_t size) {
  if (size > size_)
    throw CorruptError(str(path().string(), ": has ", size_,
                           " bytes, but the checkpoint was taken when it had ", size,
                           "; the run cannot be continued with its own log"));
  if (::ftruncate(file_.get(), static_cast<off_t>(size)) != 0) throw_errno("cannot write", path());
  size_ = size;
}

}  // namespace shallowpi
