// Demonstration files as one list of training samples: opening them, the split by episode.
#pragma once

#include <cstdint>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include "shallowpi/data/dataset.h"
#include "shallowpi/data/readers.h"

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
  /// Throws UsageError where there is no source, a weight is not positive, or the sources differ in state or
  /// action dims or have no camera in common.
  explicit Dataset(std::vector<Source> sources);

  const std::vector<Source>& sources() const { return sources_; }
  std::int64_t state_dim() const;
  std::int64_t action_dim() const;
  /// The sources' steps per second, of those that say it.
  std::set<double> control_rates() const;
  /// Cameras that every source has, in canonical order.
  std::vector<std::string> camera_names() const;
  /// The file that a sample is of.
  const EpisodeFile& file(const Sample& sample) const { return *sources_[sample.source].file; }
  /// The robot's state at a sample, raw units.
  std::vector<float> state(const Sample& sample) const;
  /// The next `horizon` actions from a sample on, raw units; after the episode's end the last one repeats.
  RobotActions chunk(const Sample& sample, std::int64_t horizon) const;
  /// The files that lack a camera of this name.
  std::vector<const EpisodeFile*> files_without(const std::string& camera) const;
  /// Splits by episode: `held_out_fraction` of each file's episodes (at least one where > 0, never all)
  /// are held out, chosen by `seed`. Files of a single episode (ALOHA) are split together as if they were
  /// one, and so are recordings, each as a whole: its neighbouring answers are nearly the same. Samples are
  /// in file order. Throws UsageError for a fraction outside [0, 1), or where no episode can be spared.
  struct Split {
    std::vector<Sample> train, held_out;
  };
  Split split(double held_out_fraction, std::uint64_t seed) const;

 private:
  std::vector<Source> sources_;
};

/// Opens every file that the patterns match, each with its pattern's weight. Throws UsageError where a
/// pattern matches nothing or two match the same file, and what the readers throw; where they refuse several
/// files, one Error that lists those.
Dataset open_dataset(const std::vector<DataFile>& files, DataFormat format,
                     const LiberoOptions& options = {});

/// A seed that depends on the sample and `seed` alone.
std::uint64_t sample_seed(const Dataset::Sample& sample, std::uint64_t seed);

/// `count` of the samples, evenly spread over the list (all where count is 0 or not smaller).
std::vector<Dataset::Sample> spread_samples(const std::vector<Dataset::Sample>& samples, std::int64_t count);

/// `samples` in their order, `batch_size` (>= 1) at a time; the last batch may be smaller.
std::vector<std::vector<Dataset::Sample>> batches_of(const std::vector<Dataset::Sample>& samples,
                                                     std::int64_t batch_size);

}  // namespace shallowpi
