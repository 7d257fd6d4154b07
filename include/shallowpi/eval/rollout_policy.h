// What can act in a rollout: a checkpoint, a server, or one of the baselines that every evaluation needs.
#pragma once

#include <torch/types.h>

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "shallowpi/base/json.h"
#include "shallowpi/data/policy_transform.h"

namespace shallowpi {

/// openpi's dummy action: LIBERO's robot stands still, gripper open.
inline const std::vector<float> kLiberoStandStill{0, 0, 0, 0, 0, 0, -1};

/// One episode of an evaluation. Names a stream of random numbers together with the seed.
struct EpisodeKey {
  std::string suite;
  std::int64_t task = 0, trial = 0;
  auto operator<=>(const EpisodeKey&) const = default;
};

/// An observation that wants an action chunk.
struct PolicyCall {
  EpisodeKey episode;
  std::int64_t call = 0;  ///< of the episode, from 0
  std::int64_t tick = 0;  ///< control steps executed before the observation
  RobotObservation observation;
  /// --chunking rtc: [D][7], what will be executed from the observation on, until the answer is there.
  RobotActions prefix{};
};

class RolloutPolicy {
 public:
  virtual ~RolloutPolicy() = default;
  /// What results.json says of it; two runs continue each other only where it is equal.
  virtual Json identity() const = 0;
  virtual bool needs_images() const { return true; }
  /// Actions per chunk; 0: known only from the first answer.
  virtual std::int64_t horizon() const = 0;
  /// Pixels of the images in its demonstrations; 0: not known.
  virtual std::int64_t demo_image_size() const { return 0; }
  /// Actions of a prefix that it was trained to continue, at most; 0: none, or not known.
  virtual std::int64_t rtc_training_max_delay() const { return 0; }
  /// Throws UsageError where it has nothing to play on the task with this instruction, before any is played.
  virtual void check_task(const std::string& /*instruction*/) const {}
  /// One chunk [H][7] in robot units per call.
  virtual std::vector<RobotActions> infer(const std::vector<PolicyCall>& calls) = 0;
};

struct NetworkOptions {
  std::int64_t steps = kEulerSteps;
  double noise_scale = 1;                    ///< times the noise that a chunk starts from
  std::optional<std::int64_t> horizon = {};  ///< where the checkpoint does not say it
  std::string tokenizer = {};                ///< where the checkpoint has none
  torch::Device device = torch::kCPU;
  torch::Dtype dtype = torch::kFloat32;
};

/// A checkpoint; noise is a function of (seed, episode, call). Throws UsageError where its cameras, state or
/// actions do not fit LIBERO.
std::unique_ptr<RolloutPolicy> checkpoint_policy(const std::string& folder, std::uint64_t seed,
                                                 const NetworkOptions& options);
/// Anything that speaks openpi's websocket protocol at `url`, takes `api_key` and answers within `timeout_s`
/// seconds. A server of ours, known by its metadata, gets the noise that checkpoint_policy draws, so that its
/// answers are the same. Throws what PolicyClient throws, Error where the server comes back with other
/// metadata (another policy), and UsageError for a prefix and a server that is not ours.
std::unique_ptr<RolloutPolicy> server_policy(const std::string& url, std::uint64_t seed,
                                             double timeout_s = 120, const std::string& api_key = "");
/// A policy without a network, by its description:
///   noop                   stands still
///   replay:FILE[#K]        replays demonstration K (default 0) of those in FILE, a LIBERO HDF5, whatever
///                          it sees; #trial: demonstration number (trial mod count)
///   mean-action:FILE       always the mean action of FILE's demonstrations
/// FILE may be a glob; each task uses the file with its own instruction. Throws UsageError for anything else.
std::unique_ptr<RolloutPolicy> baseline_policy(const std::string& description);

}  // namespace shallowpi
