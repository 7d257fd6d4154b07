// From samples of demonstrations to training batches, with openpi's augmentation.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "shallowpi/base/norm_stats.h"
#include "shallowpi/base/observation.h"
#include "shallowpi/base/policy_spec.h"
#include "shallowpi/data/demonstrations.h"
#include "shallowpi/data/policy_transform.h"
#include "shallowpi/data/tokenizer.h"

namespace shallowpi {

/// The sample as the robot would have sent it, with those of `cameras` that its file has.
RobotObservation robot_observation(const Dataset& dataset, const Dataset::Sample& sample,
                                   const std::vector<std::string>& cameras);

/// Whether there are steps that have the images of the step before them (`EpisodeInfo::repeats`).
bool repeats_images(const Dataset& dataset);

/// What training changes in what the policy sees, drawn anew for each sample; the action labels stay.
struct Augmentation {
  std::uint64_t seed = 0;
  bool images = true;  ///< openpi's crop, rotation and colours
  /// Standard deviation of each robot state dim, raw units; empty: no noise.
  std::vector<double> state_noise;
};

/// Where statistics come from. Those that a policy was trained with must stay as they are.
enum class StatsOrigin { kData, kPolicy };

/// Turns samples into batches as the network reads them, by the PolicyTransform that the policy runs with.
class SamplePipeline {
 public:
  /// `dataset` must outlive this. Throws UsageError where the spec, the statistics, the tokenizer (vocabulary
  /// against `vocab`) and the data do not fit together, also for a camera of the spec that only some files
  /// have, and for a dim without any range; logs a warning for cameras of the spec that no file has and for
  /// nearly constant dims. A policy's own dim without a range is only refused where the data leaves its
  /// value.
  SamplePipeline(const Dataset& dataset, PolicySpec spec, NormStats stats,
                 std::shared_ptr<const Tokenizer> tokenizer, std::int64_t vocab,
                 StatsOrigin origin = StatsOrigin::kData);

  /// A batch of the given samples, tokens padded to the longest. Safe to call from several threads at once.
  /// What an augmentation changes depends on its seed and the position in the batch.
  TrainingBatch make_batch(const std::vector<Dataset::Sample>& samples,
                           const std::optional<Augmentation>& augmentation = {}) const;

  /// The given spec with image_keys narrowed to the cameras in the batches, in their order.
  const PolicySpec& spec() const { return transform_.spec(); }
  /// The given statistics, cut to the robot's real dims.
  const NormStats& stats() const { return transform_.stats(); }
  /// Normalised [H, A] actions back to robot units; `raw_state` is the robot's own state.
  RobotActions to_robot(const torch::Tensor& actions_hd, const std::vector<float>& raw_state) const {
    return transform_.to_robot(actions_hd, raw_state);
  }

 private:
  void augment_images(std::uint64_t seed, Observation& observation) const;

  const Dataset* dataset_;
  PolicyTransform transform_;
};

}  // namespace shallowpi
