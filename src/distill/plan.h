// What a run will need, computed before it starts (`--dry-run`): parameters, memory, arithmetic, disk.
#pragma once

#include <cstdint>
#include <string>

#include "shallowpi/distill/setup.h"

namespace shallowpi {

struct TrainingPlan {
  std::int64_t teacher_layers = 0;  ///< 0: no teacher in the loop

  std::int64_t trained = 0, frozen = 0, dead = 0;  ///< the student's parameters

  std::uint64_t devices = 1;       ///< that share a batch; memory, but for the host's, is of each
  std::uint64_t weight_bytes = 0;  ///< both models, as they compute
  /// Gradient, a share of moments and EMA, and master weights where those are kept apart.
  std::uint64_t optimizer_bytes = 0;
  std::uint64_t activation_bytes = 0;  ///< what a training step holds at its peak beside all that
  /// Batches in the loader and held out, and the copy that a checkpoint is written from.
  std::uint64_t host_bytes = 0;
  std::uint64_t base_bytes = 0;  ///< the process before it loads anything
  bool on_gpu = false;
  /// Of a GPU; on a CPU of the process, with base and host memory.
  std::uint64_t peak_bytes() const;
  std::uint64_t machine_bytes = 0;  ///< all memory of the machine, or of the GPU; 0: unknown
  std::uint64_t free_bytes = 0;     ///< of the GPU, now

  double flops = 0;  ///< per step on all devices, matrix products only
  std::uint64_t checkpoint_bytes = 0;
  std::uint64_t most_checkpoints = 0;  ///< that lie in the run's folder at a time
  std::uint64_t free_disk_bytes = 0;

  std::int64_t prefix_tokens = 0;  ///< of a sample: cameras and prompt
};

/// Reads no weights; looks at one sample for its prompt's length. Throws UsageError where optimizer.freeze
/// matches nothing, or everything.
TrainingPlan plan_training(const TrainingSetup& setup);

/// Both as a text for people.
std::string plan_text(const TrainingSetup& setup, const TrainingPlan& plan);

}  // namespace shallowpi
