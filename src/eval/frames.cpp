#include "eval/frames.h"

#include <torch/torch.h>

#include "shallowpi/base/error.h"
#include "shallowpi/base/text.h"
#include "shallowpi/distill/setup.h"
#include "shallowpi/runtime/policy_runner.h"

namespace shallowpi {

std::vector<Dataset::Sample> choose_samples(const Dataset& dataset, const DemoChoice& demos,
                                            std::int64_t count) {
  if (count < 0) throw UsageError(str("--frames ", count, ": must not be negative"));
  const double fraction = demos.held_out ? demos.data.held_out_fraction : 0.0;
  if (demos.held_out && fraction <= 0)
    throw UsageError("--held-out: that run holds nothing out (data.held_out_fraction is 0)");
  const Dataset::Split split = dataset.split(fraction, demos.split_seed);
  const auto& samples = demos.held_out ? split.held_out : split.train;
  if (samples.empty()) throw UsageError("the files hold no frame to measure on");
  return spread_samples(samples, count);
}

std::string frame_name(const Dataset& dataset, const Dataset::Sample& frame) {
  const EpisodeFile& file = dataset.file(frame);
  const std::string& episode = file.episodes()[static_cast<std::size_t>(frame.episode)].name;
  return str(file.path().filename().string(), " ", episode, " step ", frame.step);
}

SamplePipeline make_pipeline(const Dataset& dataset, const CheckpointInfo& info, const DataConfig& data) {
  require_horizon(info);
  log_warnings(info);
  std::optional<NormStats> stats = given_stats(data);
  const StatsOrigin origin = stats ? StatsOrigin::kData : StatsOrigin::kPolicy;
  if (!stats) stats = info.stats;  // also those that its run computed
  if (!stats)
    throw UsageError(
        str(info.folder.string(), " has no normalisation statistics: ",
            info.asset_ids.empty() ? "name some with --set data.norm_stats=FILE" : how_to_add_stats(info)));
  const auto tokenizer = std::make_shared<Tokenizer>(find_tokenizer(data.tokenizer, info.tokenizer));
  return SamplePipeline(dataset, info.spec, *stats, tokenizer, info.config.vocab, origin);
}

FlowDraw draw_for_frames(const torch::Tensor& actions_bhd, const std::vector<Dataset::Sample>& frames,
                         const MeasureOptions& options) {
  const FlowConfig flow{.draws = options.draws};
  std::vector<torch::Tensor> noise, t, x_t, target;
  for (std::size_t b = 0; b < frames.size(); ++b) {
    const FlowDraw draw = draw_flow(actions_bhd.narrow(0, static_cast<std::int64_t>(b), 1), flow,
                                    sample_seed(frames[b], options.seed));
    noise.push_back(draw.noise);
    t.push_back(draw.t);
    x_t.push_back(draw.x_t);
    target.push_back(draw.target);
  }
  const auto cat = [&](const std::vector<torch::Tensor>& parts) {
    return torch::cat(parts).to(options.device);
  };
  return {cat(noise), cat(t), cat(x_t), cat(target)};
}

torch::Tensor sampling_noise(const torch::Tensor& actions_bhd, const std::vector<Dataset::Sample>& frames,
                             std::uint64_t seed) {
  torch::Tensor noise_bhd = torch::empty(actions_bhd.sizes(), torch::kFloat32);
  for (std::size_t b = 0; b < frames.size(); ++b) {
    noise_bhd[static_cast<std::int64_t>(b)] =
        draw_noise(actions_bhd.sizes().slice(1), sample_seed(frames[b], seed + 1));
  }
  return noise_bhd;
}

}  // namespace shallowpi
