// A checkpoint ready to serve: raw observations in, actions in robot units out.
#pragma once

#include <filesystem>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "shallowpi/base/error.h"
#include "shallowpi/data/policy_transform.h"
#include "shallowpi/model/checkpoint.h"
#include "shallowpi/runtime/engine.h"

namespace shallowpi {

/// Standard normal noise, float32 on the CPU: a function of `sizes` and `seed` alone, on any device.
torch::Tensor draw_noise(at::IntArrayRef sizes, std::uint64_t seed);

struct InferOptions {
  std::int64_t steps = kEulerSteps;
};

struct InferRequest {
  RobotObservation observation;
  torch::Tensor noise_hd;  ///< float32 [H, action_width], such as PolicyRunner::noise; x_1 of the flow
  /// [D][action_dim], D < H, robot units: the chunk begins with these actions, and the others are sampled to
  /// continue them (real-time chunking). May be empty.
  RobotActions prefix_actions{};
};

struct InferResult {
  RobotActions actions;         ///< [H][action_dim] in robot units, all finite
  torch::Tensor normalized_hd;  ///< float32 [H, action_width] on the host, as the network gave them
  double model_ms = 0;          ///< milliseconds of the network, for the whole batch
};

/// The network's actions are not finite, for one of the observations at least.
class NotFiniteError : public Error {
 public:
  using Error::Error;
};

/// A loaded policy. Several threads may call `infer`: one runs, the others wait.
class PolicyRunner {
 public:
  /// `horizon` where the checkpoint does not say it; `tokenizer`: a file to use instead of the checkpoint's.
  /// Throws UsageError (no horizon, no statistics, no tokenizer) or CorruptError.
  static PolicyRunner load(const std::filesystem::path& checkpoint, torch::Device device, torch::Dtype dtype,
                           std::optional<std::int64_t> horizon = {}, const std::string& tokenizer = "",
                           EngineKind engine = EngineKind::kAuto);

  /// Of the parts that load() makes.
  PolicyRunner(CheckpointInfo info, std::unique_ptr<const PolicyTransform> transform,
               std::unique_ptr<Engine> engine)
      : info_(std::move(info)), transform_(std::move(transform)), engine_(std::move(engine)) {}

  const CheckpointInfo& info() const { return info_; }
  const PolicyTransform& transform() const { return *transform_; }
  /// Of what decides its actions: folder_fingerprint(), and of a tokenizer from elsewhere its bytes too.
  std::string fingerprint() const;

  /// Noise for one chunk, [H, action_width].
  torch::Tensor noise(std::uint64_t seed) const {
    return draw_noise({info_.spec.horizon, info_.spec.action_width}, seed);
  }

  /// A request with the noise of `seed`, times `noise_scale`: at 0 the flow starts in the middle of what it
  /// could draw, and a chunk is steadier (docs/controller.md).
  InferRequest request(RobotObservation observation, RobotActions prefix_actions, std::uint64_t seed,
                       double noise_scale = 1) const {
    return {std::move(observation), noise(seed) * noise_scale, std::move(prefix_actions)};
  }

  /// Throws UsageError, naming the field, for an observation that `infer` refuses, and for what `serve`
  /// refuses beside: a camera that is missing, a prompt so long that the state in it would be cut. The policy
  /// would act on less than it was trained with.
  void check(const RobotObservation& observation) const;

  /// One forward pass for the whole batch. Throws UsageError that names the field for a request that does not
  /// fit the policy, and NotFiniteError where the network's actions are not finite.
  std::vector<InferResult> infer(const std::vector<InferRequest>& batch, const InferOptions& options = {});

  /// Infers from black images and `prompt` (empty: the policy's default, or a short one) what is slow for the
  /// first time, on a GPU by seconds. Where each shape has a graph: up to `largest` observations at once,
  /// with all cameras and with those that a robot must send (at most 4, or 64 where those are the same, for
  /// few graphs are kept), and one observation with given actions.
  void warm_up(std::int64_t steps, std::int64_t largest = 1, const std::string& prompt = "");

 private:
  EngineRequest engine_request(const std::vector<InferRequest>& batch, const InferOptions& options) const;

  CheckpointInfo info_;
  std::unique_ptr<const PolicyTransform> transform_;
  std::unique_ptr<Engine> engine_;
  std::unique_ptr<std::mutex> mutex_ = std::make_unique<std::mutex>();  // of engine_
};

}  // namespace shallowpi
