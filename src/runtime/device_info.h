// What machine a measurement was made on.
#pragma once

#include <torch/types.h>

#include "shallowpi/base/json.h"

namespace shallowpi {

/// "name", "threads", and where they can be read "clocks" and "power_mode" (nvidia-smi, nvpmodel, cpufreq).
Json device_info(torch::Device device);

/// Peak bytes that the process held on the device; on a GPU since reset_peak_memory().
std::uint64_t peak_memory(torch::Device device);
void reset_peak_memory(torch::Device device);

}  // namespace shallowpi
