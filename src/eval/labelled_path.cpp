#include "eval/labelled_path.h"

namespace shallowpi {
namespace {

/// The last part of a path, also of "runs/x/".
std::string own_name(const std::filesystem::path& path) {
  const std::filesystem::path normal = std::filesystem::absolute(path).lexically_normal();
  const std::filesystem::path name = (normal.has_filename() ? normal : normal.parent_path()).filename();
  return (name.extension() == ".json" ? name.stem() : name).string();
}

}  // namespace

LabelledPath read_labelled_path(const std::string& text) {
  const std::size_t equals = text.find('=');
  if (equals == std::string::npos || text.find('/') < equals) return {own_name(text), text};
  return {text.substr(0, equals), text.substr(equals + 1)};
}

}  // namespace shallowpi
