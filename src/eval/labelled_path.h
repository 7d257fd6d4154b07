// Paths as commands that compare several things name them, and checkpoints so named.
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "shallowpi/model/checkpoint.h"

namespace shallowpi {

struct LabelledPath {
  std::string label;
  std::filesystem::path path;
};

/// "LABEL=PATH", or a path that is called by its last part (of a JSON file: without .json). Only an = before
/// the first / ends a label.
LabelledPath read_labelled_path(const std::string& text);

/// Several of them; a path whose last part another has too is called by as many parts as tell them apart:
/// "l6/last" and "l9/last". Throws UsageError where two have the same name all the same, with `what` they are
/// ("checkpoints").
std::vector<LabelledPath> read_labelled_paths(const std::vector<std::string>& texts, const std::string& what);

struct LabelledCheckpoint {
  std::string label;
  CheckpointInfo info;
};

/// The checkpoint at a labelled path, intact; `horizon` as read_checkpoint_info takes it, `run_horizon` where
/// neither that nor the folder says it.
LabelledCheckpoint read_labelled_checkpoint(const LabelledPath& path, std::optional<std::int64_t> horizon,
                                            std::optional<std::int64_t> run_horizon);

}  // namespace shallowpi
