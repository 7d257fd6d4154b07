// Paths as commands that compare several things name them.
#pragma once

#include <filesystem>
#include <string>

namespace shallowpi {

struct LabelledPath {
  std::string label;
  std::filesystem::path path;
};

/// "LABEL=PATH", or a path that is called by its last part (of a JSON file: without .json). Only an = before
/// the first / ends a label.
LabelledPath read_labelled_path(const std::string& text);

}  // namespace shallowpi
