// How much memory this process uses, and the machine has.
#pragma once

#include <c10/core/Device.h>

#include <cstdint>
#include <filesystem>
#include <string>

namespace shallowpi {

/// Resident bytes of this process now, and at its peak; 0 where the system does not say.
std::uint64_t resident_bytes();
std::uint64_t peak_resident_bytes();

/// Peak bytes that this process held on `device`: resident on the host, or allocated on the GPU since
/// reset_peak_memory().
std::uint64_t peak_memory(c10::Device device);
void reset_peak_memory(c10::Device device);

/// All bytes that `device` has, used or not; of the host those that this process's control groups (a
/// container, a Slurm job) allow it; 0 where the system does not say.
std::uint64_t total_memory(c10::Device device);
/// Those that nobody uses.
std::uint64_t free_memory(c10::Device device);

/// The least memory limit of the control groups of `cgroups` (the text of /proc/self/cgroup, version 1 or 2)
/// below `root`; the largest number where there is none.
std::uint64_t cgroup_limit(const std::string& cgroups, const std::filesystem::path& root = "/sys/fs/cgroup");

}  // namespace shallowpi
