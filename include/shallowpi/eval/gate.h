// `shallowpi-infer gate`: may a faster path (bfloat16, graphs) stand in for float32 eager? It may where its
// actions on demonstrated observations are the same within limits, in the worst case as well as in the mean.
#pragma once

#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "shallowpi/base/json.h"
#include "shallowpi/eval/demo_choice.h"
#include "shallowpi/runtime/engine.h"

namespace shallowpi {

/// Of one frame's chunk, normalised, over the robot's real dims; the mean is over frames.
struct GateLimits {
  double min_cosine_mean = 0.999, min_cosine_worst = 0.99;
  double max_abs_mean = 0.05, max_abs_worst = 0.2;  ///< largest difference of an action
  double max_l2_mean = 0.05, max_l2_worst = 0.15;   ///< |difference| / |reference|
};

struct GateOptions {
  std::filesystem::path checkpoint;
  DemoChoice demos;
  std::int64_t frames = 64;  ///< compare on this many, evenly spread; 0: all
  std::optional<std::int64_t> horizon;
  std::int64_t steps = kEulerSteps;
  std::int64_t batch_size = 1;  ///< frames per forward pass
  torch::Device device = torch::kCPU;
  torch::Dtype dtype = torch::kBFloat16;  ///< of the faster path
  EngineKind engine = EngineKind::kAuto;  ///< of the faster path
  std::uint64_t seed = 42;                ///< of the noise, which both get
  GateLimits limits;
  std::filesystem::path json;  ///< empty: none
  bool quiet = false;
};

/// Compares. The result has "passed", "failures" (in words), the "measures" and the worst difference per dim
/// in robot units. Throws UsageError where both paths are the same, and as run_offline does.
Json run_gate_json(const GateOptions& options);
/// The result as tables for people.
std::string gate_text(const Json& report);
/// Compares, prints the tables on stdout and writes options.json. Returns 0 where the path passed, else 1.
int run_gate(const GateOptions& options);

}  // namespace shallowpi
