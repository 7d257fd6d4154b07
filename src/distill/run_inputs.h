// What a run is made from besides its configuration. One that goes on must be made from the same.
#pragma once

#include <string>

#include "distill/training_state.h"
#include "shallowpi/distill/setup.h"
#include "shallowpi/model/checkpoint.h"

namespace shallowpi {

struct RunInputs {
  /// Of every checkpoint of the run, the weights apart. In memory, as whoever made them may remove them.
  CheckpointContents contents;
  std::string demonstrations;  ///< digest of their states, actions and prompts, the split and the statistics
  std::string start;           ///< weights_fingerprint of student.checkpoint; empty: nothing of it is frozen
};

RunInputs read_run_inputs(const TrainingSetup& setup);

/// Throws UsageError, naming what to set back, where the run that `start` is of was made from others.
void check_same_inputs(const StartPoint& start, const TrainingSetup& setup, const RunInputs& inputs);

}  // namespace shallowpi
