#include "trainer_internal.h"

#include <algorithm>
#include <map>

#include "data/sampling.h"
#include "shallowpi/base/text.h"

namespace shallowpi {

std::vector<TrainingBatch> held_out_batches(const TrainingSetup& setup, std::int64_t batch_size) {
  const auto samples = spread_samples(setup.split.held_out, setup.config().train.eval_frames);
  std::vector<TrainingBatch> batches;
  for (auto begin = samples.begin(); begin != samples.end();) {
    const auto end = begin + std::min<std::ptrdiff_t>(batch_size, samples.end() - begin);
    batches.push_back(setup.pipeline->make_batch({begin, end}));
    begin = end;
  }
  return batches;
}

std::string describe_batch(const TrainingSetup& setup, std::int64_t number) {
  constexpr std::int64_t kShown = 8;
  const std::int64_t batch_size = setup.config().train.batch_size;
  const SampleOrder order(*setup.dataset, setup.split.train, setup.config().seed);
  std::map<std::string, std::vector<std::int32_t>> steps;
  for (std::int64_t i = 0; i < std::min(batch_size, kShown); ++i) {
    const Dataset::Sample& sample = order.at(static_cast<std::uint64_t>(number * batch_size + i));
    const EpisodeFile& file = *setup.dataset->sources()[static_cast<std::size_t>(sample.source)].file;
    const EpisodeInfo& episode = file.episodes()[static_cast<std::size_t>(sample.episode)];
    steps[str(file.path().string(), " ", episode.name)].push_back(sample.step);
  }
  std::vector<std::string> parts;
  for (const auto& [episode, frames] : steps) parts.push_back(str(episode, " steps ", join(frames, ", ")));
  return str(join(parts, "; "), batch_size > kShown ? "; ..." : "");
}

}  // namespace shallowpi
