// How much memory this process uses, and the machine has.
#pragma once

#include <c10/core/Device.h>

#include <cstdint>

namespace shallowpi {

/// Resident bytes of this process now, and at its peak; 0 where the system does not say.
std::uint64_t resident_bytes();
std::uint64_t peak_resident_bytes();

/// Peak bytes that this process held on `device`: resident on the host, or allocated on the GPU since
/// reset_peak_memory().
std::uint64_t peak_memory(c10::Device device);
void reset_peak_memory(c10::Device device);

/// All bytes that `device` has, used or not; 0 where the system does not say.
std::uint64_t total_memory(c10::Device device);

}  // namespace shallowpi
