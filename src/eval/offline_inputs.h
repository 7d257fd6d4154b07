// What the measurements on demonstrations start from: checkpoint folders, data files, and frames of them.
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

Dataset open_data(const DataConfig& data);

/// Throws UsageError where the folder lacks the horizon, the statistics or the tokenizer, and nothing else
/// gives it.
SamplePipeline make_pipeline(const Dataset& dataset, const Named& named, const DataConfig& data);

/// The frames to measure on: options.frames of the held-out episodes or of all. Throws UsageError where there
/// are none.
std::vector<Dataset::Sample> choose_samples(const Dataset& dataset, const OfflineOptions& options);

}  // namespace shallowpi
