#include "eval/labelled_path.h"

#include <map>

#include "shallowpi/base/error.h"
#include "shallowpi/base/text.h"

namespace shallowpi {
namespace fs = std::filesystem;
namespace {

/// The last `count` parts of a path, also of "runs/x/".
std::string last_parts(const fs::path& path, std::size_t count) {
  fs::path rest = fs::absolute(path).lexically_normal();
  if (!rest.has_filename()) rest = rest.parent_path();
  if (rest.extension() == ".json") rest.replace_extension();
  fs::path name = rest.filename();
  for (std::size_t i = 1; i < count && rest.has_relative_path(); ++i) {
    rest = rest.parent_path();
    name = rest.filename() / name;
  }
  return name.string();
}

bool has_label(const std::string& text) {
  const std::size_t equals = text.find('=');
  return equals != std::string::npos && text.find('/') >= equals;
}

}  // namespace

LabelledPath read_labelled_path(const std::string& text) {
  if (!has_label(text)) return {last_parts(text, 1), text};
  const std::size_t equals = text.find('=');
  return {text.substr(0, equals), text.substr(equals + 1)};
}

std::vector<LabelledPath> read_labelled_paths(const std::vector<std::string>& texts,
                                              const std::string& what) {
  std::vector<LabelledPath> paths;
  for (const std::string& text : texts) paths.push_back(read_labelled_path(text));
  for (std::size_t parts = 2;; ++parts) {
    std::map<std::string, int> uses;
    for (const LabelledPath& path : paths) ++uses[path.label];
    bool longer = false;
    for (std::size_t i = 0; i < texts.size(); ++i) {
      if (has_label(texts[i]) || uses[paths[i].label] == 1) continue;
      const std::string label = last_parts(paths[i].path, parts);
      longer |= label != paths[i].label;
      paths[i].label = label;
    }
    if (longer) continue;
    for (const auto& [label, count] : uses)
      if (count > 1)
        throw UsageError(
            str("two ", what, " are called '", label, "': name them, as in before=DIR after=DIR"));
    return paths;
  }
}

LabelledCheckpoint read_labelled_checkpoint(const LabelledPath& path, std::optional<std::int64_t> horizon,
                                            std::optional<std::int64_t> run_horizon) {
  LabelledCheckpoint named{path.label, read_checkpoint_info(path.path, horizon)};
  if (!named.info.horizon_known && run_horizon) named.info = read_checkpoint_info(path.path, run_horizon);
  verify_files(named.info, OptionalFiles::kUnchecked);
  return named;
}

}  // namespace shallowpi
