// What a robot sends to what the network reads, and the network's actions back to the robot.
#pragma once

#include <atomic>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "shallowpi/base/norm_stats.h"
#include "shallowpi/base/observation.h"
#include "shallowpi/base/policy_spec.h"
#include "shallowpi/data/dataset.h"
#include "shallowpi/data/image.h"
#include "shallowpi/data/tokenizer.h"

namespace shallowpi {

/// What a robot sends: raw units, images upright as the policy expects them.
struct RobotObservation {
  std::map<std::string, Image> images;  ///< by canonical camera name; those that exist
  std::vector<float> state;             ///< [state_dim] raw robot dims
  std::string prompt;                   ///< empty: the spec's default_prompt
};

/// Actions in robot units, mapped and normalised as the policy's. `raw_state` is the robot's own state.
RobotActions policy_actions(const PolicySpec& spec, const FeatureStats& action_stats, RobotActions actions,
                            const std::vector<float>& raw_state);

/// Robot maps, normalisation, padding, images and prompt, as one policy was trained with them.
class PolicyTransform {
 public:
  /// Throws UsageError where spec, statistics and tokenizer (its vocabulary against `vocab`) do not fit
  /// together; logs a warning for nearly constant dims. `spec.image_keys` must name at least one camera.
  PolicyTransform(PolicySpec spec, NormStats stats, std::shared_ptr<const Tokenizer> tokenizer,
                  std::int64_t vocab);

  const PolicySpec& spec() const { return spec_; }
  /// The given statistics, cut to the robot's real dims.
  const NormStats& stats() const { return stats_; }
  const Tokenizer& tokenizer() const { return *tokenizer_; }

  /// A batch on the host, cameras in the spec's order and tokens padded to the longest. A camera that no
  /// observation has is left out, one that only some have is masked. Throws UsageError, naming the field, for
  /// a state of another width or not finite, an unknown camera, no camera at all, a misshapen image, or no
  /// prompt. Safe to call from several threads at once.
  Observation prepare(const std::vector<const RobotObservation*>& observations) const;
  /// The same for `count` observations that are made one at a time.
  Observation prepare(std::int64_t count,
                      const std::function<RobotObservation(std::int64_t)>& observation) const;

  /// Throws what prepare() would throw for this observation, without preparing it.
  void check(const RobotObservation& observation) const;

  /// Throws UsageError where the prompt holds the state and prepare() would cut it, and with it the state.
  void check_prompt(const RobotObservation& observation) const;

  /// The most tokens, at most max_token_len, that this prompt has with any state.
  std::int64_t longest_prompt(const RobotObservation& observation) const;

  /// Normalised [H, >= action_dim] actions to robot units; `raw_state` is the robot's own state.
  RobotActions to_robot(const torch::Tensor& actions_hd, const std::vector<float>& raw_state) const;
  /// The inverse: float32 [H, A], zero-padded.
  torch::Tensor from_robot(RobotActions actions, const std::vector<float>& raw_state) const;

 private:
  /// All but the images, which `add_image` writes when it is called, or later.
  Observation prepare_each(std::int64_t count,
                           const std::function<const RobotObservation&(std::int64_t)>& observation,
                           const std::function<void(const ImageJob&)>& add_image) const;
  std::vector<float> policy_state(const RobotObservation& observation) const;
  std::vector<std::int64_t> tokens_of(const RobotObservation& observation,
                                      const std::vector<float>& state) const;
  const std::string& prompt_of(const RobotObservation& observation) const;
  void check_cameras(const RobotObservation& observation) const;

  PolicySpec spec_;
  NormStats stats_;
  std::shared_ptr<const Tokenizer> tokenizer_;
  mutable std::atomic<bool> truncation_reported_{false};
};

}  // namespace shallowpi
