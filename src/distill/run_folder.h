// The folder of one training run:
//   config.yaml  metrics.jsonl  timing.jsonl  tensorboard/
//   checkpoints/step_000123/   a checkpoint (model/checkpoint.h) and its training_state/ (training_state.h)
//   last, best                 links to checkpoints, moved only once those are durable
#pragma once

#include <filesystem>
#include <functional>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "shallowpi/base/files.h"
#include "shallowpi/distill/config.h"

namespace shallowpi {

inline constexpr const char* kCheckpoints = "checkpoints";
inline constexpr const char* kConfigFile = "config.yaml";  ///< training_state/ has one too
inline constexpr const char* kMetricsFile = "metrics.jsonl";

struct RunCheckpoint {
  std::int64_t step = 0;
  std::filesystem::path folder;
};

/// Published checkpoints of `run_folder`, oldest first; empty where there are none.
std::vector<RunCheckpoint> run_checkpoints(const std::filesystem::path& run_folder);

/// The newest one whose manifest verifies and that holds a training state; warns of each that it rejects, and
/// says why it does.
std::optional<RunCheckpoint> newest_valid_checkpoint(const std::filesystem::path& run_folder);

/// Keys whose values differ between two configurations, as "key: OLD -> NEW", leaving out those that may
/// change when a run goes on: its length, logging, saving, machine and workers. A value that a checkpoint
/// decides is "(unset)". Of files only the names count, of checkpoints only whether there is one: they may
/// have moved, and check_same_inputs() compares what is in them.
std::vector<std::string> config_differences(const ResolvedConfig& before, const ResolvedConfig& after);

/// With absolute paths, links kept, patterns too: so a run's folder saves it, for use from everywhere.
ResolvedConfig with_absolute_paths(ResolvedConfig resolved);

/// The steps that retention keeps: the last ones, every keep_every-th step, and `best_step` where asked for.
std::set<std::int64_t> steps_to_keep(const std::vector<std::int64_t>& steps, const TrainConfig& config,
                                     std::int64_t best_step);

/// The most checkpoints that a run has on its disk at a time, the one that is being written included.
std::int64_t most_checkpoints(const TrainConfig& config);

/// A run folder in use by this process.
class RunFolder {
 public:
  /// Creates and locks the folder, and removes what a killed process left half-written. Throws UsageError
  /// where the folder is in use.
  explicit RunFolder(const std::filesystem::path& path);

  const std::filesystem::path& path() const { return path_; }
  /// Where checkpoint `step` of a run is, or would be.
  static std::filesystem::path checkpoint_path(const std::filesystem::path& run_folder, std::int64_t step);

  /// Publishes checkpoint `step` with the files that `fill` writes, then moves `last` (and `best` where it
  /// is `best_step` and the best is kept), then applies retention. Throws IoError, leaving all earlier
  /// checkpoints and links as they were.
  void publish(std::int64_t step, std::int64_t best_step, const TrainConfig& config,
               const std::function<void(const std::filesystem::path&)>& fill);

  /// The part of publish() after the checkpoint is durable; for a run that was killed in between. Checkpoints
  /// newer than `step` (they did not verify) are left alone. An old one that cannot be removed is warned of.
  /// Throws IoError.
  void settle(std::int64_t step, std::int64_t best_step, const TrainConfig& config);

 private:
  void link(const std::string& name, std::int64_t step);
  static void discard(const std::filesystem::path& checkpoint);

  std::filesystem::path path_;
  FolderLock lock_;
};

}  // namespace shallowpi
