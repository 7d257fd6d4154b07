// From demonstration files to training batches: the per-sample pipeline, the split by episode, and a prefetching
// loader whose batches depend on the seed and the step alone, not on the number of worker threads.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "shallowpi/base/norm_stats.h"
#include "shallowpi/base/observation.h"
#include "shallowpi/base/policy_spec.h"
#include "shallowpi/data/dataset.h"
#include "shallowpi/data/tokenizer.h"

namespace shallowpi {

/// Several files as one list of (observation, action chunk) samples.
class Dataset {
 public:
  struct Source {
    std::shared_ptr<EpisodeFile> file;
    double weight = 1.0;  ///< sampling weight of each of its frames
  };
  /// One (episode, step) pair.
  struct Sample {
    std::int32_t source = 0, episode = 0, step = 0;
  };
  explicit Dataset(std::vector<Source> sources);

  const std::vector<Source>& sources() const { return sources_; }
  std::int64_t state_dim() const;
  std::int64_t action_dim() const;
  /// Cameras that every source has, in canonical order.
  std::vector<std::string> camera_names() const;
  /// Splits by episode: `fraction` of each file's episodes (at least one where > 0, never all) are held out, chosen by
  /// `seed`. Samples are in file order.
  struct Split {
    std::vector<Sample> train, held_out;
  };
  Split split(double held_out_fraction, std::uint64_t seed) const;

 private:
  std::vector<Source> sources_;
};

/// Statistics over policy-space states and action chunks of `samples` (openpi: whole chunks, H repeated samples).
NormStats compute_norm_stats(const Dataset& dataset, const std::vector<Dataset::Sample>& samples,
                             const PolicySpec& spec, double min_range = 0.0);

/// Turns samples into batches as the network wants them: robot maps, normalisation, padding, images, prompt.
class SamplePipeline {
 public:
  /// Throws UsageError where the spec, the statistics, the tokenizer (vocabulary against `vocab`) and the data do not
  /// fit together.
  SamplePipeline(const Dataset& dataset, PolicySpec spec, NormStats stats, std::shared_ptr<const Tokenizer> tokenizer,
                 std::int64_t vocab);

  /// A batch of the given samples. With `augment_seed`, images are augmented, drawn per (augment_seed, position).
  TrainingBatch make_batch(const std::vector<Dataset::Sample>& samples, std::optional<std::uint64_t> augment_seed = {}) const;

  const PolicySpec& spec() const { return spec_; }
  const NormStats& stats() const { return stats_; }
  /// Normalised [H, 32] actions back to robot units [H][action_dim]; `raw_state` is the robot's own state.
  std::vector<std::vector<float>> to_robot(const torch::Tensor& actions_hd, const std::vector<float>& raw_state) const;

 private:
  const Dataset* dataset_;
  PolicySpec spec_;
  NormStats stats_;
  std::shared_ptr<const Tokenizer> tokenizer_;
};

struct LoaderOptions {
  std::int64_t batch_size = 64;
  std::int64_t workers = 2;   ///< threads; 0: batches are made in next()
  std::int64_t prefetch = 4;  ///< batches prepared ahead
  bool augment = true;
  std::uint64_t seed = 42;
  std::int64_t rank = 0, world_size = 1;  ///< this process takes every world_size-th sample of each global batch
};

/// Endless batches. Batch number n is a function of (seed, n) alone: start_batch resumes anywhere, also in the middle of
/// an epoch. With equal weights every sample appears once per epoch; else samples are drawn by weight.
class Loader {
 public:
  Loader(std::shared_ptr<const SamplePipeline> pipeline, const Dataset& dataset, std::vector<Dataset::Sample> samples,
         LoaderOptions options, std::int64_t start_batch = 0);
  ~Loader();
  /// The next batch; rethrows a worker's exception.
  TrainingBatch next();
  /// Seconds that next() has waited for workers so far.
  double wait_seconds() const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace shallowpi
