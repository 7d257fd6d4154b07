// How much memory this process uses.
#pragma once

#include <cstdint>

namespace shallowpi {

/// Resident bytes of this process now, and at its peak; 0 where the system does not say.
std::uint64_t resident_bytes();
std::uint64_t peak_resident_bytes();

}  // namespace shallowpi
