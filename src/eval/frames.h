// The frames of demonstrations that a policy is measured on, and what is drawn for each of them.
#pragma once

#include "shallowpi/data/pipeline.h"
#include "shallowpi/distill/flow.h"
#include "shallowpi/eval/demo_choice.h"
#include "shallowpi/eval/measure.h"
#include "shallowpi/model/checkpoint.h"

namespace shallowpi {

/// `count` frames (0: all) of `demos`, evenly spread over their episodes.
/// Throws UsageError where there are none, and for a negative number.
std::vector<Dataset::Sample> choose_samples(const Dataset& dataset, const DemoChoice& demos,
                                            std::int64_t count);

/// "soup.hdf5 demo_3 step 4", for messages.
std::string frame_name(const Dataset& dataset, const Dataset::Sample& frame);

/// As the policy of that folder prepares frames; `data` may name other statistics or another tokenizer.
/// Throws UsageError where the horizon or the statistics are not known.
SamplePipeline make_pipeline(const Dataset& dataset, const CheckpointInfo& info, const DataConfig& data);

/// options.draws flow draws for each of `frames`, whose demonstrated actions are [B, H, A]; on
/// options.device, rows ordered b * R + r.
FlowDraw draw_for_frames(const torch::Tensor& actions_bhd, const std::vector<Dataset::Sample>& frames,
                         const MeasureOptions& options);

/// Noise to sample from, float32 on the CPU, of the shape [B, H, A] of `actions_bhd`: each row a function of
/// its frame and the seed.
torch::Tensor sampling_noise(const torch::Tensor& actions_bhd, const std::vector<Dataset::Sample>& frames,
                             std::uint64_t seed);

}  // namespace shallowpi
