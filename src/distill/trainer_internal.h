// Parts of training that need no trainer.
#pragma once

#include <string>
#include <vector>

#include "shallowpi/distill/setup.h"

namespace shallowpi {

/// train.eval_frames held-out frames, evenly spaced, in batches of `batch_size`, without augmentation.
std::vector<TrainingBatch> held_out_batches(const TrainingSetup& setup, std::int64_t batch_size);

/// The first samples of training batch `number`, for messages: "FILE demo_3 steps 4, 17; ...".
std::string describe_batch(const TrainingSetup& setup, std::int64_t number);

}  // namespace shallowpi
