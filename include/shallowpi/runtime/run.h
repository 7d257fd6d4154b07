// `shallowpi-infer run`: what a policy computes of a tensor file.
#pragma once

#include <torch/types.h>

#include <cstdint>
#include <filesystem>
#include <optional>

#include "shallowpi/runtime/engine.h"

namespace shallowpi {

struct RunOptions {
  std::filesystem::path checkpoint;
  std::filesystem::path input;   ///< a tensor file (runtime/tensor_file.h)
  std::filesystem::path output;  ///< written atomically
  std::int64_t steps = kEulerSteps;
  std::optional<std::int64_t> horizon;
  std::uint64_t seed = 42;  ///< of the noise, where the input has none
  torch::Device device = torch::kCPU;
  torch::Dtype dtype = torch::kFloat32;
  EngineKind engine = EngineKind::kAuto;
};

/// Writes float32 tensors
///   out.prefix_embeddings [B, P, W]  the full padded layout: every camera, then every prompt position
///   out.velocity [B, H, A]           at x_t = t noise + (1 - t) actions; where the input has actions and t
///   out.sampled_actions [B, H, A]    from the noise
///   in.noise [B, H, A]               what was drawn, where the input has none: add it to repeat the run
/// with A the policy's action width. Throws UsageError where the inputs do not fit the policy or the horizon
/// is not known, CorruptError where a result is not finite; nothing is written then.
void run_policy_on_file(const RunOptions& options);

}  // namespace shallowpi
