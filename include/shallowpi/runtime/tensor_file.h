// Tensor files: a policy's inputs as safetensors, for `shallowpi-infer run --input` and
// `shallowpi-eval offline --batch`.
//
//   in.image_<k>       float [B, 3, S, S] in [-1, 1]       k = 0, 1, ... in the order of the prefix
//   in.image_mask_<k>  bool [B]                            does this sample have camera k? absent: all do
//   in.tokens          int32 or int64 [B, T]               prompt ids
//   in.token_mask      bool [B, T]                         true for real tokens, which come first
//   in.state           float [B, A]                        normalised and padded; only pi0 needs it
//   in.actions         float [B, H, A]                     optional
//   in.noise           float [B, H, A]                     optional
//   in.time            float [B]                           optional; 1 is noise
// A is the policy's action width (32 in released ones). Floats may be of any width, masks also integers 0 and
// 1. Another name that begins with "in." is refused; all others are ignored.
#pragma once

#include <torch/types.h>

#include <filesystem>

#include "shallowpi/base/observation.h"
#include "shallowpi/model/config.h"

namespace shallowpi {

struct PolicyInputs {
  Observation observation;
  torch::Tensor actions_bhd;  ///< float32 [B, H, A]; undefined where the file has none
  torch::Tensor noise_bhd;    ///< float32 [B, H, A]; undefined where the file has none
  torch::Tensor time_b;       ///< float32 [B]; undefined where the file has none

  PolicyInputs to(torch::Device device) const;
};

/// Reads and checks a tensor file against the policy that will see it. Throws CorruptError where it is not a
/// safetensors file, and one UsageError that lists everything that is missing, misshapen, of a wrong dtype,
/// not finite, or out of the vocabulary.
PolicyInputs read_policy_inputs(const std::filesystem::path& path, const PolicyConfig& config);

}  // namespace shallowpi
