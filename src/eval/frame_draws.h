// Random draws for measurements: functions of the frame and the seed alone, so that every policy sees the
// same.
#pragma once

#include <vector>

#include "shallowpi/distill/flow.h"
#include "shallowpi/eval/measure.h"

namespace shallowpi {

/// options.draws flow draws for each of `frames`, whose demonstrated actions are [B, H, 32]; on
/// options.device.
FlowDraw draw_for_frames(const torch::Tensor& actions_bhd, const std::vector<Dataset::Sample>& frames,
                         const MeasureOptions& options);

/// Noise to sample from, of the shape of `actions_bhd`, on the CPU.
torch::Tensor sampling_noise(const torch::Tensor& actions_bhd, const std::vector<Dataset::Sample>& frames,
                             std::uint64_t seed);

}  // namespace shallowpi
