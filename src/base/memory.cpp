#include "shallowpi/base/memory.h"

#include <c10/core/CachingDeviceAllocator.h>

#include <algorithm>
#include <fstream>
#include <limits>
#include <sstream>
#include <string>
#include <vector>

#include "shallowpi/base/files.h"
#include "shallowpi/base/text.h"

namespace shallowpi {
namespace fs = std::filesystem;
namespace {

// A line "NAME:   123 kB" of `file`.
std::uint64_t proc_bytes(const std::string& file, const std::string& name) {
  std::istringstream status(read_file(file));
  std::string line;
  while (std::getline(status, line))
    if (line.starts_with(name)) return std::stoull(line.substr(name.size() + 1)) * 1024;
  return 0;
}

// "cuda" without a number is the first GPU.
c10::DeviceIndex number_of(c10::Device device) {
  return std::max<c10::DeviceIndex>(device.index(), 0);
}

}  // namespace

std::uint64_t resident_bytes() {
  return proc_bytes("/proc/self/status", "VmRSS");
}
std::uint64_t peak_resident_bytes() {
  return proc_bytes("/proc/self/status", "VmHWM");
}

std::uint64_t peak_memory(c10::Device device) {
  if (!device.is_cuda()) return peak_resident_bytes();
  // The first entry of a statistic is the sum over the allocator's pools.
  return static_cast<std::uint64_t>(
      c10::getDeviceAllocator(device.type())->getDeviceStats(number_of(device)).allocated_bytes[0].peak);
}

void reset_peak_memory(c10::Device device) {
  if (device.is_cuda()) c10::getDeviceAllocator(device.type())->resetPeakStats(number_of(device));
}

std::uint64_t total_memory(c10::Device device) {
  if (!device.is_cuda()) {
    std::ostringstream cgroups;  // which not every system has
    cgroups << std::ifstream("/proc/self/cgroup").rdbuf();
    return std::min(proc_bytes("/proc/meminfo", "MemTotal"), cgroup_limit(cgroups.str()));
  }
  return c10::getDeviceAllocator(device.type())->getMemoryInfo(number_of(device)).second;
}

std::uint64_t free_memory(c10::Device device) {
  if (!device.is_cuda()) return proc_bytes("/proc/meminfo", "MemAvailable");
  return c10::getDeviceAllocator(device.type())->getMemoryInfo(number_of(device)).first;
}

std::uint64_t cgroup_limit(const std::string& cgroups, const fs::path& root) {
  std::uint64_t limit = std::numeric_limits<std::uint64_t>::max();
  const auto take = [&limit](const fs::path& file) {
    std::uint64_t bytes = 0;
    if (std::ifstream(file) >> bytes) limit = std::min(limit, bytes);  // "max" is no number
  };
  std::istringstream lines(cgroups);
  std::string line;
  while (std::getline(lines, line)) {  // NUMBER:CONTROLLERS:PATH; version 2 names no controllers
    const std::vector<std::string> parts = split(line, ':');
    if (parts.size() != 3) continue;
    const std::vector<std::string> controllers = split(parts[1], ',');
    const bool is_v2 = parts[1].empty();
    if (!is_v2 && std::ranges::count(controllers, "memory") == 0) continue;
    for (fs::path group = parts[2];; group = group.parent_path()) {  // the limits of its parents hold too
      take((is_v2 ? root : root / "memory") / group.relative_path() /
           (is_v2 ? "memory.max" : "memory.limit_in_bytes"));
      if (!group.has_relative_path()) break;
    }
  }
  return limit;
}

}  // namespace shallowpi
