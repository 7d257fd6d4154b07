#include "shallowpi/base/memory.h"

#include <c10/core/CachingDeviceAllocator.h>

#include <algorithm>
#include <sstream>
#include <string>

#include "shallowpi/base/files.h"

namespace shallowpi {
namespace {

// A line "NAME:   123 kB" of /proc/self/status.
std::uint64_t status_bytes(const std::string& name) {
  std::istringstream status(read_file("/proc/self/status"));
  std::string line;
  while (std::getline(status, line))
    if (line.compare(0, name.size(), name) == 0) return std::stoull(line.substr(name.size() + 1)) * 1024;
  return 0;
}

}  // namespace

std::uint64_t resident_bytes() {
  return status_bytes("VmRSS");
}
std::uint64_t peak_resident_bytes() {
  return status_bytes("VmHWM");
}

std::uint64_t peak_memory(c10::Device device) {
  if (!device.is_cuda()) return peak_resident_bytes();
  const auto index = std::max<c10::DeviceIndex>(device.index(), 0);
  // The first entry of a statistic is the sum over the allocator's pools.
  return static_cast<std::uint64_t>(
      c10::getDeviceAllocator(device.type())->getDeviceStats(index).allocated_bytes[0].peak);
}

void reset_peak_memory(c10::Device device) {
  if (device.is_cuda())
    c10::getDeviceAllocator(device.type())->resetPeakStats(std::max<c10::DeviceIndex>(device.index(), 0));
}

}  // namespace shallowpi
