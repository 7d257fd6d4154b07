// Batches beside those that are trained on: the held-out ones, and a batch as a text.
#pragma once

#include <string>
#include <vector>

#include "shallowpi/distill/setup.h"

namespace shallowpi {

/// train.eval_frames held-out frames, evenly spaced, in batches of `batch_size`, without augmentation.
std::vector<TrainingBatch> held_out_batches(const TrainingSetup& setup, std::int64_t batch_size);

/// The positions in `batch` whose normalised actions are not finite or beyond 1000; empty where all are
/// sound.
std::vector<std::int64_t> extreme_samples(const TrainingBatch& batch);

/// The samples at `positions` of training batch `number` (the first ones where there are none), for messages:
/// "FILE demo_3 steps 4, 17; ...".
std::string describe_batch(const TrainingSetup& setup, std::int64_t number,
                           std::vector<std::int64_t> positions = {});

}  // namespace shallowpi
