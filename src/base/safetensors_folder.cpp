#include <set>

#include "shallowpi/base/error.h"
#include "shallowpi/base/json.h"
#include "shallowpi/base/safetensors.h"
#include "shallowpi/base/text.h"

namespace shallowpi {
namespace fs = std::filesystem;
namespace {

/// {tensor name: shard file name} of an index file.
std::map<std::string, std::string> read_index(const fs::path& path) {
  const auto weight_map = json_get<Json>(read_json(path), "weight_map", path.string());
  if (!weight_map.is_object() || weight_map.empty())
    throw CorruptError(path.string() + ": \"weight_map\" must be an object that names at least one tensor");
  std::map<std::string, std::string> shard_of;
  for (const auto& [tensor, shard] : weight_map.items()) {
    if (!shard.is_string())
      throw CorruptError(str(path.string(), ": the shard of ", in_quotes(tensor), " must be a string"));
    const auto name = shard.get<std::string>();
    if (name.empty() || name == "." || name == ".." || name.find_first_of("/\\") != std::string::npos ||
        name.find('\0') != std::string::npos)
      throw CorruptError(str(path.string(), ": the shard ", in_quotes(name), " of ", in_quotes(tensor),
                             " is not a plain file name"));
    shard_of.emplace(tensor, name);
  }
  return shard_of;
}

}  // namespace

bool SafetensorsFolder::exists(const fs::path& folder) {
  return fs::exists(folder / kFile) || fs::exists(folder / kIndex);
}

SafetensorsFolder::SafetensorsFolder(const fs::path& folder) {
  if (!exists(folder)) throw UsageError(str(folder.string(), ": holds neither ", kFile, " nor ", kIndex));
  const fs::path index_path = folder / kIndex;
  std::map<std::string, std::string> listed;  // of the index
  if (fs::exists(folder / kFile)) {
    paths_.push_back(folder / kFile);
  } else {
    listed = read_index(index_path);
    std::set<std::string> names;
    for (const auto& [tensor, shard] : listed) names.insert(shard);
    for (const auto& name : names) {
      if (!fs::exists(folder / name))
        throw CorruptError(str(index_path.string(), ": names the shard ", name, ", which is missing"));
      paths_.push_back(folder / name);
    }
  }
  for (const auto& path : paths_) {
    shards_.emplace_back(path);
    for (const auto& [name, info] : shards_.back().tensors()) {
      if (!tensors_.emplace(name, info).second)
        throw CorruptError(str(path.string(), ": tensor ", in_quotes(name), " is in an earlier shard too"));
      shard_index_.emplace(name, shards_.size() - 1);
      const auto entry = listed.find(name);
      if (!listed.empty() && (entry == listed.end() || entry->second != path.filename()))
        throw CorruptError(str(index_path.string(), ": does not say that tensor ", in_quotes(name), " is in ",
                               path.filename().string(), ", where it is"));
    }
  }
  for (const auto& [name, shard] : listed)
    if (!contains(name))
      throw CorruptError(str(index_path.string(), ": says that tensor ", in_quotes(name), " is in ", shard,
                             ", but it is not"));
}

const SafetensorsFile& SafetensorsFolder::shard_of(const std::string& name) const {
  const auto found = shard_index_.find(name);
  if (found == shard_index_.end())
    throw UsageError(str(paths_.front().parent_path().string(), ": has no tensor ", in_quotes(name)));
  return shards_[found->second];
}

torch::Tensor SafetensorsFolder::read(const std::string& name) const {
  return shard_of(name).read(name);
}

void SafetensorsFolder::read_into(const std::string& name, torch::Tensor destination) const {
  shard_of(name).read_into(name, std::move(destination));
}

}  // namespace shallowpi
