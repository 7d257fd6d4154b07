// Checkpoint folders as the commands that measure on demonstrations name them.
#pragma once

#include <string>
#include <vector>

#include "shallowpi/eval/offline.h"
#include "shallowpi/model/checkpoint.h"

namespace shallowpi {

struct Named {
  std::string label;
  CheckpointInfo info;
};

/// "LABEL=DIR", or a folder that names itself.
Named read_named(const std::string& text, const OfflineOptions& options);

}  // namespace shallowpi
