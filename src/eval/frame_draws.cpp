#include "eval/frame_draws.h"

#include <ATen/CPUGeneratorImpl.h>

#include "shallowpi/data/random.h"

namespace shallowpi {
namespace {

std::uint64_t frame_seed(const Dataset::Sample& sample, std::uint64_t seed) {
  return Random({seed, static_cast<std::uint64_t>(sample.source), static_cast<std::uint64_t>(sample.episode),
                 static_cast<std::uint64_t>(sample.step)})
      .next();
}

}  // namespace

FlowDraw draw_for_frames(const torch::Tensor& actions_bhd, const std::vector<Dataset::Sample>& frames,
                         const MeasureOptions& options) {
  std::vector<torch::Tensor> noise, t, x_t, target;
  for (std::size_t b = 0; b < frames.size(); ++b) {
    const FlowDraw draw = draw_flow(actions_bhd.narrow(0, static_cast<std::int64_t>(b), 1), options.draws,
                                    frame_seed(frames[b], options.seed));
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
    auto generator = at::make_generator<at::CPUGeneratorImpl>(frame_seed(frames[b], seed + 1));
    noise_bhd[static_cast<std::int64_t>(b)].normal_(0.0, 1.0, generator);
  }
  return noise_bhd;
}

}  // namespace shallowpi
