// Where the tokenizer is looked for.
#include <algorithm>
#include <cstdlib>

#include "shallowpi/base/error.h"
#include "shallowpi/base/files.h"
#include "shallowpi/base/text.h"
#include "shallowpi/data/tokenizer.h"

namespace shallowpi {
namespace fs = std::filesystem;
namespace {

fs::path environment_path(const char* name, const fs::path& fallback) {
  const char* value = std::getenv(name);
  return value != nullptr && *value != '\0' ? fs::path(value) : fallback;
}

// Where `openpi.shared.download` keeps gs://big_vision/paligemma_tokenizer.model (it does not read
// XDG_CACHE_HOME).
fs::path openpi_cache_file() {
  const fs::path home =
      environment_path("OPENPI_DATA_HOME", environment_path("HOME", "/") / ".cache" / "openpi");
  return home / "big_vision" / "paligemma_tokenizer.model";
}

// The Hub's layout is models--<owner>--<name>/snapshots/<commit>/<file>.
fs::path hub_cache_file() {
  const fs::path hub = environment_path(
      "HF_HUB_CACHE", environment_path("HF_HOME", user_cache_folder() / "huggingface") / "hub");
  std::vector<fs::path> found;
  std::error_code error;
  for (const auto& entry :
       fs::directory_iterator(hub / "models--google--paligemma-3b-pt-224" / "snapshots", error))
    if (fs::exists(entry.path() / "tokenizer.model", error))
      found.push_back(entry.path() / "tokenizer.model");
  return found.empty() ? fs::path() : *std::min_element(found.begin(), found.end());
}

}  // namespace

fs::path find_tokenizer(const std::string& explicit_path, const fs::path& checkpoint_path) {
  if (!explicit_path.empty()) {
    if (!fs::is_regular_file(explicit_path))
      throw UsageError(str("tokenizer ", explicit_path, ": there is no such file"));
    return explicit_path;
  }
  std::error_code error;
  const bool is_folder = fs::is_directory(checkpoint_path, error);
  const fs::path candidates[] = {is_folder ? checkpoint_path / "tokenizer.model" : checkpoint_path,
                                 openpi_cache_file(), hub_cache_file()};
  for (const fs::path& candidate : candidates)
    if (fs::is_regular_file(candidate, error)) return candidate;
  const fs::path target = openpi_cache_file();
  throw UsageError(str(
      "no tokenizer found: neither the checkpoint nor the caches of openpi and Hugging Face have "
      "PaliGemma's; fetch it (4 MB) with\n  mkdir -p ",
      target.parent_path().string(), " && curl -fL -o ", target.string(),
      " https://storage.googleapis.com/big_vision/paligemma_tokenizer.model\nor with\n  gsutil cp "
      "gs://big_vision/paligemma_tokenizer.model ",
      target.string(),
      "\nor name a file: data.tokenizer=FILE (shallowpi-distill), --set data.tokenizer=FILE (where --data or "
      "--held-out are given, too), else --tokenizer FILE"));
}

}  // namespace shallowpi
