#include "shallowpi/base/cli.h"

#include <ATen/Parallel.h>
#include <c10/util/Exception.h>
#include <sys/resource.h>
#include <torch/cuda.h>
#include <torch/version.h>

#include <algorithm>
#include <cstdio>
#include <exception>
#include <filesystem>
#include <iostream>
#include <new>

#include "shallowpi/base/enum_names.h"
#include "shallowpi/base/error.h"
#include "shallowpi/base/log.h"
#include "shallowpi/base/text.h"

namespace shallowpi {
namespace {

/// Every demonstration file stays open while it is used, and a dataset may have
/// thousands; the usual limit is 1024.
void allow_many_open_files() {
  rlimit limit{};
  if (::getrlimit(RLIMIT_NOFILE, &limit) != 0) return;
  limit.rlim_cur = limit.rlim_max;
  ::setrlimit(RLIMIT_NOFILE, &limit);
}

/// LibTorch asks for huge pages then: a third of the loader's time was the faults of a batch's pages.
void use_huge_pages() {
  ::setenv("THP_MEM_ALLOC_ENABLE", "1", /*overwrite=*/0);
}

int fail(const std::string& message, ExitCode code) {
  std::cerr << "error: " << message << std::endl;
  return static_cast<int>(code);
}

/// `code`, or where it is 0 and not all of stdout could be written, 1.
int check_output(int code) {
  if (std::cout.flush() && std::fflush(stdout) == 0 && std::ferror(stdout) == 0) return code;
  fail("cannot write to stdout: is the disk full, or what reads it gone?", ExitCode::kFailed);
  return code != 0 ? code : static_cast<int>(ExitCode::kFailed);
}

}  // namespace

void apply_common_options(const CommonOptions& options) {
  const auto level = parse_enum<log::Level>(options.log_level, "--log-level");
  log::set_level(options.quiet && level < log::Level::kWarning ? log::Level::kWarning : level);
  const std::int64_t threads = options.threads.value_or(0);
  if (threads < 0 || threads > 1024)
    throw UsageError(str("--threads: ", threads, " is not 0 (all cores) to 1024"));
  if (threads > 0) at::set_num_threads(static_cast<int>(threads));
}

torch::Device parse_device(const std::string& name) {
  const bool is_auto = name == "auto" || name.empty(), has_gpu = torch::cuda::is_available();
  if (name == "cpu" || (is_auto && !has_gpu)) return torch::kCPU;
  if (is_auto) return torch::Device(torch::kCUDA, 0);
  if (!is_device_name(name)) throw UsageError(str("device: '", name, "' is not auto, cpu or cuda:N"));
  const int index = name == "cuda" ? 0 : std::stoi(name.substr(5));
  const int count = has_gpu ? static_cast<int>(torch::cuda::device_count()) : 0;
  if (index >= count)
    throw UsageError(
        str("device: there is no ", name, "; this program sees ", count, " CUDA device(s). ",
            has_gpu ? "Choose a lower number" : "Use cpu, or a build with CUDA on a machine with a GPU"));
  return torch::Device(torch::kCUDA, static_cast<c10::DeviceIndex>(index));
}

std::vector<torch::Device> parse_devices(const std::string& names) {
  std::vector<std::string> each = split(names, ',');
  if (names == "cuda:all") {
    each = {"cuda:0"};  // refused below where there is none
    for (int i = 1; i < static_cast<int>(torch::cuda::device_count()); ++i) each.push_back(str("cuda:", i));
  }
  std::vector<torch::Device> devices;
  for (const std::string& name : each) {
    const torch::Device device = parse_device(name);
    if (!devices.empty() && device.type() != devices.front().type())
      throw UsageError(str("device: ", names, " mixes GPUs and the CPU; name devices of one kind"));
    if (device.is_cuda() && std::find(devices.begin(), devices.end(), device) != devices.end())
      throw UsageError(str("device: ", names, " names ", device.str(), " twice"));
    devices.push_back(device);
  }
  return devices;
}

torch::Dtype parse_dtype(const std::string& name, torch::Device device) {
  if (name == "float32") return torch::kFloat32;
  if (name == "bfloat16") return torch::kBFloat16;
  if (name == "auto" || name.empty()) return device.is_cuda() ? torch::kBFloat16 : torch::kFloat32;
  throw UsageError(str("dtype: '", name, "' is not auto, float32 or bfloat16"));
}

std::string dtype_name(torch::Dtype dtype) {
  return dtype == torch::kBFloat16 ? "bfloat16" : "float32";
}

std::string version_text() {
  const std::string git = SHALLOWPI_GIT;
  return str("shallowpi ", SHALLOWPI_VERSION, git.empty() ? "" : " (git " + git + ")", ", LibTorch ",
             TORCH_VERSION, ", ", torch::cuda::is_available() ? "CUDA" : "CPU");
}

int run_main(const std::function<int()>& body) {
  constexpr const char* kOutOfMemory =
      "out of memory: use a smaller batch or model, or a machine with more memory";
  allow_many_open_files();
  use_huge_pages();
  try {
    return check_output(body());
  } catch (const Error& error) {
    return fail(error.what(), error.code());
  } catch (const c10::OutOfMemoryError& error) {
    return fail(
        str("out of GPU memory: ", error.what_without_backtrace(),
            "\nUse a smaller batch (train.accumulate, train.activation_checkpointing) or another device"),
        ExitCode::kFailed);
  } catch (const c10::Error& error) {
    const std::string reason = error.what_without_backtrace();
    if (reason.find("DefaultCPUAllocator") != std::string::npos)
      return fail(str(kOutOfMemory, " (", reason, ")"), ExitCode::kFailed);
    return fail(str("LibTorch: ", reason), ExitCode::kFailed);
  } catch (const std::bad_alloc&) {
    return fail(kOutOfMemory, ExitCode::kFailed);
  } catch (const std::filesystem::filesystem_error& error) {
    return fail(str(error.path1().string(), ": ", error.code().message()), ExitCode::kUsage);
  } catch (const std::exception& error) {
    return fail(error.what(), ExitCode::kFailed);
  }
}

}  // namespace shallowpi
