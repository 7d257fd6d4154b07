// A prefetching loader of training batches that depend on the seed and the step alone, not on the number of
// worker threads.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <vector>

#include "shallowpi/base/observation.h"
#include "shallowpi/data/demonstrations.h"
#include "shallowpi/data/pipeline.h"

namespace shallowpi {

struct LoaderOptions {
  std::int64_t batch_size = 64;
  std::int64_t workers = 2;      ///< threads; 0: batches are made in next()
  std::int64_t prefetch = 4;     ///< batches prepared ahead
  std::optional<Augmentation> augmentation = Augmentation();  ///< its seed is drawn for each batch
  std::uint64_t seed = 42;
};

/// Endless batches. Batch number n is a function of (seed, n) alone: start_batch resumes anywhere, also in
/// the middle of an epoch. With equal weights every sample appears once per epoch; else samples are drawn by
/// weight. Workers use no torch operation, so they start no threads of their own.
class Loader {
 public:
  /// Throws UsageError where there are no samples or an option is out of range.
  Loader(std::shared_ptr<const SamplePipeline> pipeline, const Dataset& dataset,
         std::vector<Dataset::Sample> samples, LoaderOptions options, std::int64_t start_batch = 0);
  /// Waits for the batches being made.
  ~Loader();
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
