// What machine a measurement was made on.
#pragma once

#include <torch/types.h>

#include "shallowpi/base/json.h"

namespace shallowpi {

/// "name", "threads", and where they can be read "clocks" and "power_mode" (nvidia-smi, nvpmodel, cpufreq).
Json device_info(torch::Device device);

}  // namespace shallowpi
