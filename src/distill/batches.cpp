#include "distill/batches.h"

#include <map>
#include <numeric>

#include "data/sampling.h"
#include "shallowpi/base/files.h"
#include "shallowpi/base/text.h"
#include "shallowpi/data/image.h"

namespace shallowpi {

std::vector<TrainingBatch> held_out_batches(const TrainingSetup& setup, std::int64_t batch_size) {
  const auto samples = spread_samples(setup.split.held_out, setup.config().train.eval_frames);
  std::vector<TrainingBatch> batches;
  for (const auto& part : batches_of(samples, batch_size))
    batches.push_back(setup.pipeline->make_batch(part));
  return batches;
}

std::vector<std::int64_t> extreme_samples(const TrainingBatch& batch) {
  constexpr double kSound = 1e3;
  std::vector<std::int64_t> positions;
  for (std::int64_t i = 0; i < batch.actions_bhd.size(0); ++i)
    if (!(batch.actions_bhd[i].abs().max().item<double>() <= kSound)) positions.push_back(i);
  return positions;
}

std::string describe_batch(const TrainingSetup& setup, std::int64_t number,
                           std::vector<std::int64_t> positions) {
  constexpr std::size_t kShown = 8;
  const std::int64_t batch_size = setup.config().train.batch_size;
  if (positions.empty()) {
    positions.resize(static_cast<std::size_t>(batch_size));
    std::iota(positions.begin(), positions.end(), 0);
  }
  const bool is_cut = positions.size() > kShown;
  if (is_cut) positions.resize(kShown);
  const SampleOrder order(*setup.dataset, setup.split.train, setup.config().seed);
  std::map<std::string, std::vector<std::int32_t>> steps;
  for (const std::int64_t position : positions) {
    const Dataset::Sample& sample = order.at(static_cast<std::uint64_t>(number * batch_size + position));
    const EpisodeFile& file = setup.dataset->file(sample);
    const EpisodeInfo& episode = file.episodes()[static_cast<std::size_t>(sample.episode)];
    steps[str(file.path().string(), " ", episode.name)].push_back(sample.step);
  }
  std::vector<std::string> parts;
  for (const auto& [episode, frames] : steps) parts.push_back(str(episode, " steps ", join(frames, ", ")));
  return str(join(parts, "; "), is_cut ? "; ..." : "");
}

void write_picture(const std::filesystem::path& file, const Observation& observation) {
  constexpr std::int64_t kShown = 6;
  std::vector<torch::Tensor> rows;
  for (const torch::Tensor& images_bcyx : observation.images_bcyx)
    rows.push_back(torch::cat(images_bcyx.slice(0, 0, kShown).unbind(), 2));  // side by side
  if (rows.empty()) return;
  const torch::Tensor rgb_yxc = torch::cat(rows, 1)
                                    .add(1)
                                    .mul(127.5)
                                    .round()
                                    .clamp(0, 255)
                                    .to(torch::kUInt8)
                                    .permute({1, 2, 0})
                                    .contiguous();
  const auto* bytes = rgb_yxc.data_ptr<std::uint8_t>();
  write_file_atomically(file,
                        encode_jpeg({rgb_yxc.size(0), rgb_yxc.size(1), {bytes, bytes + rgb_yxc.numel()}}));
}

}  // namespace shallowpi
