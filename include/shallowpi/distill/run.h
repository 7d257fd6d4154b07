// A whole run: trains a policy, or distils one into a shallow student, as the configuration says.
#pragma once

#include <filesystem>
#include <string>

#include "shallowpi/distill/config.h"

namespace shallowpi {

/// What the command line asks of a run.
struct DistillRun {
  bool dry_run = false;  ///< print the plan to stdout, write nothing
  /// "auto": go on with the run in output_dir where there is one. "never": start anew, refused where
  /// output_dir has checkpoints. A folder (a checkpoint, or a run with some): take its state where output_dir
  /// has none of its own.
  std::string resume = "auto";
  bool quiet = false;
};

/// Throws UsageError where `config` is the configuration of a run, and that run's folder is not `output_dir`:
/// it has been moved or copied, and training with it would begin anew where it was.
void check_place_of_run(const std::filesystem::path& config, const std::filesystem::path& output_dir);

/// Trains as configured. Returns the exit code: 0 done (also where the run was complete already), 130 or 143
/// after a signal and a save. Throws Error for everything else; its code() is the exit code.
int run_distill(const ResolvedConfig& resolved, const DistillRun& run);

/// Writes the untrained student of teacher.checkpoint to the new folder `out`; needs no data, tokenizer or
/// statistics. Throws Error.
void run_init_only(const ResolvedConfig& resolved, const std::filesystem::path& out);

}  // namespace shallowpi
