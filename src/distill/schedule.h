// The learning rate as a pure function of the step, so that a resumed run needs no schedule state.
#pragma once

#include <cstdint>

#include "shallowpi/distill/config.h"

namespace shallowpi {

/// openpi's schedule for the 0-based `step`: linear warm-up from peak / (warmup + 1), then a cosine from
/// peak_lr to end_lr that ends at decay_steps and stays there.
double learning_rate(const OptimizerConfig& config, std::int64_t step);

}  // namespace shallowpi
