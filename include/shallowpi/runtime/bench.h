// `shallowpi-infer bench`: where the time of one chunk goes, and how far that is from the device's limit.
#pragma once

#include <torch/types.h>

#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "shallowpi/base/enum_names.h"
#include "shallowpi/base/json.h"
#include "shallowpi/model/config.h"
#include "shallowpi/runtime/engine.h"

namespace shallowpi {

enum class BenchSize { kFull, kTiny };
template <>
inline constexpr auto kEnumNames<BenchSize> = std::to_array<EnumName<BenchSize>>({
    {BenchSize::kFull, "full"},
    {BenchSize::kTiny, "tiny"},
});

struct BenchOptions {
  std::filesystem::path checkpoint;  ///< empty: random weights of the sizes below
  PolicyKind model = PolicyKind::kPi05;
  BenchSize size = BenchSize::kFull;
  /// Default: the checkpoint's; of random weights 18, 2 and 10. `layers` is of random weights only.
  std::optional<std::int64_t> layers, cameras, horizon;
  std::int64_t prompt_tokens = 64, steps = kEulerSteps, batch = 1;
  std::int64_t iterations = 20, warmup = 3;
  /// "layers=4,6,9,18", "vision-tokens=64,128,256": all combinations are measured. Fewer vision tokens means
  /// that many per camera reach the backbone, as where a policy prunes them behind its vision tower. That
  /// needs the time of each stage: auto is the eager engine then.
  std::vector<std::string> sweeps;
  bool compare = false;        ///< time Policy::sample_actions, without the engine, beside it
  bool kernels = true;         ///< on GPUs, use this project's kernels; else LibTorch's operators alone
  std::filesystem::path json;  ///< empty: none
  /// Where to write a timeline of one more chunk, for chrome://tracing; empty: none.
  std::filesystem::path trace;
  torch::Device device = torch::kCPU;
  torch::Dtype dtype = torch::kFloat32;
  EngineKind engine = EngineKind::kAuto;
  std::uint64_t seed = 42;
};

/// Values at 50, 90 and 99 % of the sorted samples (nearest rank), which must not be empty.
struct Percentiles {
  double p50 = 0, p90 = 0, p99 = 0;
};
Percentiles percentiles(std::vector<double> samples);

/// The values of one axis, from "layers=4,6,9,18". Throws UsageError for other axes and for values that are
/// not positive whole numbers.
struct SweepAxis {
  std::string name;
  std::vector<std::int64_t> values;
};
SweepAxis parse_sweep(const std::string& text);

/// Weights that keep activations at their scale. They are drawn on `device`: a host takes half a minute for
/// billions.
Policy random_policy(const PolicyConfig& config, torch::Dtype dtype, torch::Device device,
                     std::uint64_t seed);

/// Measures. The result has "device", "settings" and one entry of "results" per combination of the sweeps.
Json run_bench_json(const BenchOptions& options);
/// The result as tables for people.
std::string bench_text(const Json& report);
/// Measures, prints the tables on stdout and writes options.json.
void run_bench(const BenchOptions& options);

}  // namespace shallowpi
