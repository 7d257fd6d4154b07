#include "shallowpi/base/memory.h"

#include <c10/core/CachingDeviceAllocator.h>

#include <algorithm>
#include <sstream>
#include <string>

#include "shallowpi/base/files.h"

namespace shallowpi {
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
  if (!device.is_cuda()) return proc_bytes("/proc/meminfo", "MemTotal");
  return c10::getDeviceAllocator(device.type())->getMemoryInfo(number_of(device)).second;
}

}  // namespace shallowpi
