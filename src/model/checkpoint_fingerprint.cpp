// What tells one checkpoint folder from another without reading all of it.
#include <fcntl.h>

#include <algorithm>

#include "shallowpi/base/error.h"
#include "shallowpi/base/file_descriptor.h"
#include "shallowpi/base/manifest.h"
#include "shallowpi/base/text.h"
#include "shallowpi/model/checkpoint.h"

namespace shallowpi {
namespace fs = std::filesystem;
namespace {

/// The bytes from `begin` to `end` that count: all up to 1 MiB, else the first, middle and last 64 KiB.
std::string sample(const FileDescriptor& file, const fs::path& path, std::uint64_t begin, std::uint64_t end) {
  constexpr std::uint64_t kWhole = 1u << 20, kBlock = 1u << 16;
  const auto read = [&](std::uint64_t at, std::uint64_t size) {
    std::string bytes(size, '\0');
    if (!file.read_at(bytes.data(), size, at)) throw IoError(str(path.string(), ": became shorter"));
    return bytes;
  };
  if (end - begin <= kWhole) return read(begin, end - begin);
  return read(begin, kBlock) + read(begin + (end - begin) / 2, kBlock) + read(end - kBlock, kBlock);
}

std::string sampled_hash(const fs::path& path) {
  const FileDescriptor file = open_file(path, O_RDONLY);
  const std::uint64_t size = file.size();
  std::uint64_t data_start = size;
  std::string hashes;
  if (path.extension() == ".safetensors") {
    const SafetensorsFile weights(path);  // whose data ends where the file does
    for (const auto& [name, tensor] : weights.tensors()) data_start = std::min(data_start, size - tensor.end);
    for (const auto& [name, tensor] : weights.tensors())
      hashes += sha256(sample(file, path, data_start + tensor.begin, data_start + tensor.end));
  }
  hashes += sha256(sample(file, path, 0, data_start));
  return sha256(hashes);
}

}  // namespace

std::string folder_fingerprint(const fs::path& folder) {
  std::vector<std::string> lines;
  for (auto it = fs::recursive_directory_iterator(folder); it != fs::recursive_directory_iterator(); ++it) {
    const fs::directory_entry& entry = *it;
    if (it.depth() == 0 && entry.path().filename() == kTrainingState) it.disable_recursion_pending();
    if (!entry.is_regular_file() || entry.path().filename() == ".lock") continue;
    lines.push_back(str(entry.path().lexically_relative(folder).string(), " ", entry.file_size(), " ",
                        sampled_hash(entry.path())));
  }
  std::sort(lines.begin(), lines.end());
  return sha256(join(lines, "\n")).substr(0, 16);
}

}  // namespace shallowpi
