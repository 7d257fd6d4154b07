#include "data/hdf5_raw_file.h"

#include <fcntl.h>

#include "shallowpi/base/error.h"
#include "shallowpi/base/text.h"

namespace shallowpi::hdf5 {
namespace {

FileDescriptor open_regular(const std::filesystem::path& path) {
  std::error_code ignored;
  if (std::filesystem::exists(path / "meta/info.json", ignored))
    throw UsageError(str(path.string(),
                         ": is a LeRobot dataset; convert it, and name what comes of it: "
                         "scripts/convert_lerobot.py ",
                         path.string(), " --out FOLDER, then FOLDER/*.hdf5"));
  if (path.extension() == ".parquet")
    throw UsageError(str(
        path.string(),
        ": is a file of a LeRobot dataset; convert the folder that meta/ lies in, "
        "and name what comes of it: scripts/convert_lerobot.py DATASET --out FOLDER, then FOLDER/*.hdf5"));
  if (std::filesystem::is_directory(path, ignored))
    throw UsageError(str(path.string(), ": is a folder; name its files, as in ", (path / "*.hdf5").string()));
  if (!std::filesystem::is_regular_file(path, ignored))
    throw UsageError(str(path.string(), ": no such file; check the list of demonstration files"));
  return open_file(path, O_RDONLY);
}

}  // namespace

RawFile::RawFile(const std::filesystem::path& path)
    : descriptor_(open_regular(path)), bytes_(descriptor_.size()) {
  if (bytes_ == 0) throw CorruptError(str(path.string(), ": is empty; ", kRecopy));
}

void RawFile::fail(std::string_view name, std::string_view problem, std::string_view remedy) const {
  throw CorruptError(str(path().string(), ": ", name, " ", problem, "; ", remedy));
}

}  // namespace shallowpi::hdf5
