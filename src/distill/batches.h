// The held-out batches, and a batch as people see it: as a text, as a picture.
#pragma once

#include <filesystem>
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

/// Writes what the network sees of the first samples as a JPEG: a row per camera, a column per sample.
void write_picture(const std::filesystem::path& file, const Observation& observation);

}  // namespace shallowpi
