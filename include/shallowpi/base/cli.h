// What all programs share: common options, the version, and exceptions as exit codes.
#pragma once

#include <torch/types.h>

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <vector>

namespace shallowpi {

/// The options that every program takes.
struct CommonOptions {
  std::string device;  ///< auto, cpu, cuda:N; empty: not given
  std::string dtype;   ///< auto, float32, bfloat16; empty: not given
  std::optional<std::int64_t> threads;
  std::optional<std::uint64_t> seed;
  std::string log_level = "info";  ///< debug, info, warning, error, off
  bool quiet = false;              ///< no progress, only warnings and errors
};

/// Sets the log level, and the number of threads (not given or 0: all cores).
void apply_common_options(const CommonOptions& options);

/// auto or empty (a GPU where there is one), cpu, cuda or cuda:N. Throws UsageError for anything else and for
/// a GPU that is not there.
torch::Device parse_device(const std::string& name);
/// One or several of one kind, separated by commas, or "cuda:all". Throws UsageError as parse_device does,
/// and where a GPU is named twice.
std::vector<torch::Device> parse_devices(const std::string& names);
/// auto (bfloat16 on a GPU, float32 on a CPU), float32 or bfloat16. Throws UsageError for anything else.
torch::Dtype parse_dtype(const std::string& name, torch::Device device);
/// "float32" or "bfloat16", as parse_dtype takes it.
std::string dtype_name(torch::Dtype dtype);

/// "shallowpi 0.1.0 (git ...), LibTorch 2.11.0, CPU".
std::string version_text();

/// Runs `body` and returns its exit code. What it throws is printed as one message on stderr and becomes the
/// exit code of its kind (base/error.h); out of memory and errors of LibTorch become 1, and so does output
/// that stdout did not take.
int run_main(const std::function<int()>& body);

}  // namespace shallowpi
