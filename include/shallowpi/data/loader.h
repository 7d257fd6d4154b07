// From samples to training batches: the per-sample pipeline, and a prefetching loader whose batches depend on
// the seed and the step alone, not on the number of worker threads.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "shallowpi/data/demonstrations.h"
#include "shallowpi/data/policy_transform.h"

namespace shallowpi {

/// What training changes in what the policy sees, drawn anew for each sample; the action labels stay.
struct Augmentation {
  std::uint64_t seed = 0;
  bool images = true;  ///< openpi's crop, rotation and colours
  std::vector<double>
      state_noise;  ///< standard deviation of each robot state dim, raw units; empty: no noise
};

/// Turns samples into batches as the network wants them, by the PolicyTransform that the policy will run
/// with.
class SamplePipeline {
 public:
  /// `dataset` must outlive this. Throws UsageError where the spec, the statistics, the tokenizer (vocabulary
  /// against `vocab`) and the data do not fit together, also for a camera of the spec that only some files
  /// have; logs a warning for cameras of the spec that no file has and for nearly constant dims.
  SamplePipeline(const Dataset& dataset, PolicySpec spec, NormStats stats,
                 std::shared_ptr<const Tokenizer> tokenizer, std::int64_t vocab);

  /// A batch of the given samples, tokens padded to the longest. Safe to call from several threads at once.
  /// What an augmentation changes depends on its seed and the position in the batch.
  TrainingBatch make_batch(const std::vector<Dataset::Sample>& samples,
                           const std::optional<Augmentation>& augmentation = {}) const;

  /// The given spec with image_keys narrowed to the cameras in the batches, in their order.
  const PolicySpec& spec() const { return transform_.spec(); }
  /// The given statistics, cut to the robot's real dims.
  const NormStats& stats() const { return transform_.stats(); }
  /// Normalised [H, 32] actions back to robot units; `raw_state` is the robot's own state.
  RobotActions to_robot(const torch::Tensor& actions_hd, const std::vector<float>& raw_state) const {
    return transform_.to_robot(actions_hd, raw_state);
  }
  /// The sample as the robot would have sent it.
  RobotObservation robot_observation(const Dataset::Sample& sample) const;

 private:
  void augment_images(std::uint64_t seed, Observation& observation) const;

  const Dataset* dataset_;
  PolicyTransform transform_;
  std::vector<std::vector<std::size_t>>
      cameras_;  // per source, its index of each camera in spec().image_keys
};

struct LoaderOptions {
  std::int64_t batch_size = 64;  ///< of the global batch; a multiple of world_size
  std::int64_t workers = 2;      ///< threads; 0: batches are made in next()
  std::int64_t prefetch = 4;     ///< batches prepared ahead
  std::optional<Augmentation> augmentation = Augmentation();  ///< its seed is drawn for each batch
  std::uint64_t seed = 42;
  /// This process takes samples rank, rank + world_size, ... of each global batch.
  std::int64_t rank = 0, world_size = 1;
};

/// Endless batches. Batch number n is a function of (seed, n) alone: start_batch resumes anywhere, also in
/// the middle of an epoch. With equal weights every sample appears once per epoch; else samples are drawn by
/// weight. Workers use no torch operation, so they start no threads of their own.
class Loader {
 public:
  Loader(std::shared_ptr<const SamplePipeline> pipeline, const Dataset& dataset,
         std::vector<Dataset::Sample> samples, LoaderOptions options, std::int64_t start_batch = 0);
  ~Loader();  ///< waits for the batches being made
  Loader(const Loader&) = delete;
  Loader& operator=(const Loader&) = delete;
  /// The next batch; rethrows the exception that making it threw.
  TrainingBatch next();
  /// Seconds that next() has waited for batches so far.
  double wait_seconds() const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace shallowpi
