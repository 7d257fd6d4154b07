#include "runtime/device_info.h"

#include <torch/torch.h>

#include <algorithm>
#include <array>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <memory>
#include <string>
#include <vector>

#include "shallowpi/base/text.h"

namespace shallowpi {
namespace {

/// What a command prints on stdout, in one line; empty where it is not there or fails.
std::string output_of(const std::string& command) {
  const std::unique_ptr<FILE, int (*)(FILE*)> pipe(popen((command + " 2>/dev/null").c_str(), "r"), pclose);
  if (!pipe) return "";
  std::string text;
  std::array<char, 256> buffer{};
  while (std::fgets(buffer.data(), buffer.size(), pipe.get()) != nullptr) text += buffer.data();
  std::replace(text.begin(), text.end(), '\n', ' ');
  return std::string(trim(text));
}

/// The value of "`key` : value" in /proc/cpuinfo.
std::string cpu_field(const std::string& key) {
  std::ifstream file("/proc/cpuinfo");
  for (std::string line; std::getline(file, line);)
    if (line.starts_with(key)) return std::string(trim(line.substr(line.find(':') + 1)));
  return "";
}

std::string first_line(const char* path) {
  std::ifstream file(path);
  std::string line;
  std::getline(file, line);
  return line;
}

void set_if_known(Json& info, const char* key, const std::string& value) {
  if (!value.empty()) info[key] = value;
}

/// What nvidia-smi, which knows nothing of CUDA_VISIBLE_DEVICES, calls a device: a number or a UUID.
std::string smi_name(torch::Device device) {
  const auto index = static_cast<std::size_t>(std::max<int>(device.index(), 0));
  const char* visible = std::getenv("CUDA_VISIBLE_DEVICES");
  if (visible == nullptr || *visible == '\0') return str(index);
  const std::vector<std::string> names = split(visible, ',');
  return index < names.size() ? names[index] : str(index);
}

}  // namespace

Json device_info(torch::Device device) {
  Json info;
  info["name"] = "CPU";
  info["threads"] = torch::get_num_threads();
  if (device.is_cuda()) {
    const auto query = [&](const std::string& fields) {
      return output_of(
          str("nvidia-smi --format=csv,noheader -i '", smi_name(device), "' --query-gpu=", fields));
    };
    info["name"] = "CUDA device";
    set_if_known(info, "name", query("name"));
    set_if_known(info, "clocks", query("clocks.sm,clocks.mem"));
    set_if_known(info, "power_mode", query("power.limit"));
    set_if_known(info, "power_mode", output_of("nvpmodel -q"));  // Jetson
    return info;
  }
  set_if_known(info, "name", cpu_field("model name"));
  const std::string mhz = cpu_field("cpu MHz");
  if (!mhz.empty()) info["clocks"] = mhz + " MHz";
  set_if_known(info, "power_mode", first_line("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor"));
  return info;
}

}  // namespace shallowpi
