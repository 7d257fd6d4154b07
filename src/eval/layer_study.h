// What the two commands about layers share: their input, and how they end.
#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "eval/frames.h"
#include "eval/labelled_path.h"
#include "shallowpi/base/json.h"
#include "shallowpi/eval/layers.h"

namespace shallowpi {

/// The checkpoint, its policy and the frames to measure on.
class LayerSubject {
 public:
  /// Throws UsageError where the options do not fit the folder and the data.
  explicit LayerSubject(const LayerStudyOptions& options);

  Policy& policy() { return policy_; }
  const std::filesystem::path& folder() const { return named_.info.folder; }
  const SamplePipeline& pipeline() const { return pipeline_; }
  const std::vector<Dataset::Sample>& samples() const { return samples_; }
  /// What a report says of the measurement: policy, frames, seed, ...
  Json circumstances() const;

 private:
  const LayerStudyOptions& options_;
  LabelledCheckpoint named_;
  Dataset dataset_;
  std::vector<Dataset::Sample> samples_;
  SamplePipeline pipeline_;
  Policy policy_;
};

/// Prints the tables, or the report where options.json is set, and writes the report to options.offline.out.
void finish_study(const Json& report, const std::string& tables, const LayerStudyOptions& options);

/// As shallowpi-distill takes it: "student.layer_map=[0,3,6]".
std::string layer_map_setting(const std::vector<std::int64_t>& kept);

}  // namespace shallowpi
