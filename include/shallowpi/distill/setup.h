// From a configuration to everything that a run is built from. All of it is checked before anything is
// written, and everything that is wrong is reported together.
#pragma once

#include <torch/torch.h>

#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "shallowpi/data/pipeline.h"
#include "shallowpi/distill/config.h"
#include "shallowpi/model/checkpoint.h"
#include "shallowpi/model/policy.h"

namespace shallowpi {

/// What a configuration comes to once checkpoints and data have been looked at. No weights are read yet.
struct TrainingSetup {
  ResolvedConfig resolved;
  std::vector<torch::Device> devices;            ///< each computes its part of every batch
  torch::Dtype dtype = torch::kFloat32;          ///< the student computes in it
  torch::Dtype teacher_dtype = torch::kFloat32;  ///< and the teacher in this
  std::optional<CheckpointInfo> teacher;         ///< teacher.checkpoint
  std::string teacher_fingerprint;               ///< weights_fingerprint of it; empty: not needed yet
  std::optional<CheckpointInfo> start;           ///< student.checkpoint
  PolicyConfig policy;                           ///< the student's sizes
  /// Teacher layers that the student's were copied from; empty: none, or all.
  std::vector<std::int64_t> kept_layers;
  std::vector<std::int64_t> start_layers;  ///< layers to take from `start`, where not all
  PolicySpec spec;
  std::string statistics;  ///< where the pipeline's come from: a folder, a file, or that they were computed
  std::filesystem::path tokenizer;
  std::shared_ptr<const Dataset> dataset;
  Dataset::Split split;
  std::shared_ptr<const SamplePipeline> pipeline;

  const DistillConfig& config() const { return resolved.config; }
  /// Whether a loss asks the teacher.
  bool teaches() const { return teacher && (config().loss.kd > 0 || config().loss.attn > 0); }
  /// Samples that a device computes at a time.
  std::int64_t micro_batch() const {
    return config().train.batch_size / config().train.accumulate / static_cast<std::int64_t>(devices.size());
  }
  /// What the student starts from, and takes dead tensors over from; null where trained from scratch.
  const CheckpointInfo* origin() const { return start ? &*start : teacher ? &*teacher : nullptr; }
};

/// The demonstrations that `data` names.
Dataset open_data(const DataConfig& data);

/// Throws one Error that lists all problems with checkpoints, layers, tokenizer, statistics and data.
TrainingSetup prepare_training(const ResolvedConfig& resolved);

/// The student with its initial weights and the teacher (null where there is none), which needs no gradient.
struct TrainingModels {
  Policy student{nullptr}, teacher{nullptr};
};
/// Throws CorruptError where a file of the teacher or the start is not what its manifest says.
void verify_given(const TrainingSetup& setup);
/// One pair, all alike, for each of setup.devices. After verify_given().
std::vector<TrainingModels> load_models(const TrainingSetup& setup);

/// The parameters to train: live ones that no pattern of optimizer.freeze matches; the others need no
/// gradient afterwards. Throws UsageError for a pattern that matches nothing, or only a part of tensors that
/// are stored as one (q, k and v; gate and up).
std::vector<ParameterGroup> trainable_groups(Policy& student, const std::vector<std::string>& freeze);

/// Whether `pattern`, as the shell's (* any characters, ? one), matches the whole of `name`.
bool matches_pattern(const std::string& pattern, const std::string& name);

/// The statistics of the file that data.norm_stats names; none where it names none.
std::optional<NormStats> given_stats(const DataConfig& data);

/// The spec of a student of these `sizes`: `spec`, which is that of the policy it starts from, with the
/// policy.* keys that are set. Throws UsageError where the result does not fit the sizes, or no checkpoint
/// could hold it.
PolicySpec student_spec(const ResolvedConfig& resolved, PolicySpec spec, const PolicyConfig& sizes);

/// The layers that the configuration keeps of a policy of `depth` layers. Throws UsageError.
std::vector<std::int64_t> chosen_layers(const StudentConfig& student, std::int64_t depth);

}  // namespace shallowpi
