// One action chunk, from pixels to actions, as device work alone: its inputs and its result are buffers that
// stay where they are, and its shapes are fixed. This is what a CUDA graph records.
#pragma once

#include "shallowpi/runtime/engine.h"

namespace shallowpi {

/// What fixes all shapes of a chunk.
struct ChunkShape {
  std::int64_t batch = 0, cameras = 0, prompt = 0, horizon = 0, steps = 0;
  bool given = false;  ///< some actions are given
  bool operator==(const ChunkShape&) const = default;
};
ChunkShape shape_of(const EngineRequest& request);

/// `request` with its prompts padded to a multiple of 32 tokens and its batch, by repeats of the last
/// observation, to a power of two, so that few shapes serve all of them.
EngineRequest pad_to_bucket(const EngineRequest& request);

class StaticChunk {
 public:
  StaticChunk(Policy policy, torch::Device device, const ChunkShape& shape,
              std::shared_ptr<const StepConditioning> conditioning);

  /// Fills the buffers. Throws UsageError for a request of another shape, and as fixed_layout() does.
  void load(const EngineRequest& request);
  /// Computes the result from the buffers: launches only, nothing is read back or sent.
  void run();
  /// Normalised actions float32 [B, H, A], on the device.
  const torch::Tensor& result() const { return actions_bhd_; }

 private:
  Policy policy_;
  ChunkShape shape_;
  Observation observation_;
  PrefixLayout layout_;
  torch::Tensor noise_bhd_, actions_bhd_;
  SampleOptions options_;
};

}  // namespace shallowpi
