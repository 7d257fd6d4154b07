#include "shallowpi/base/memory.h"

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

}  // namespace shallowpi
