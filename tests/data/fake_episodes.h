// Demonstrations in memory, whose every number tells which episode, step and dim it came from.
#pragma once

#include <chrono>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "shallowpi/base/error.h"
#include "shallowpi/base/norm_stats.h"
#include "shallowpi/base/policy_spec.h"
#include "shallowpi/base/text.h"
#include "shallowpi/data/demonstrations.h"

namespace shallowpi::testing {

struct FakeOptions {
  std::string name = "fake.hdf5";
  std::vector<std::int64_t> lengths{5, 7};  // steps of each episode
  std::int64_t state_dim = 3, action_dim = 2;
  std::vector<std::string> cameras{"base_0_rgb", "left_wrist_0_rgb"};
  std::string prompt = "pick up the milk";
  std::vector<std::string> step_prompts = {};
  std::int64_t fails_at_step = -1;  // frames of this step throw
  std::chrono::milliseconds delay{0};
  DataFormat layout = DataFormat::kLibero;
};

class FakeEpisodes : public EpisodeFile {
 public:
  static constexpr std::int64_t kSide = 4;

  explicit FakeEpisodes(FakeOptions options) : options_(std::move(options)), path_(options_.name) {
    for (std::size_t e = 0; e < options_.lengths.size(); ++e) {
      episodes_.push_back({str("demo_", e), options_.prompt, options_.lengths[e], {}, options_.step_prompts});
      std::vector<std::vector<float>>&states = states_.emplace_back(), &actions = actions_.emplace_back();
      for (std::int64_t t = 0; t < options_.lengths[e]; ++t) {
        for (std::int64_t d = 0; d < options_.state_dim; ++d)
          (d == 0 ? states.emplace_back() : states.back()).push_back(state_value(e, t, d));
        for (std::int64_t d = 0; d < options_.action_dim; ++d)
          (d == 0 ? actions.emplace_back() : actions.back()).push_back(action_value(e, t, d));
      }
    }
  }

  static float state_value(std::int64_t episode, std::int64_t step, std::int64_t dim) {
    return static_cast<float>(episode + step / 128.0 + dim / 8192.0);
  }
  static float action_value(std::int64_t episode, std::int64_t step, std::int64_t dim) {
    return static_cast<float>(-episode - step / 64.0 + dim / 4096.0);
  }
  static std::uint8_t pixel(std::int64_t episode, std::int64_t step, std::int64_t camera) {
    return static_cast<std::uint8_t>(100 * camera + 20 * episode + step);
  }

  const std::filesystem::path& path() const override { return path_; }
  DataFormat layout() const override { return options_.layout; }
  const std::vector<EpisodeInfo>& episodes() const override { return episodes_; }
  const std::vector<std::string>& camera_names() const override { return options_.cameras; }
  std::int64_t state_dim() const override { return options_.state_dim; }
  std::int64_t action_dim() const override { return options_.action_dim; }
  std::vector<Image> frame(std::int64_t episode, std::int64_t step,
                           const std::vector<std::size_t>& cameras) const override {
    if (step == options_.fails_at_step) throw CorruptError(str(options_.name, ": step ", step, " is broken"));
    std::this_thread::sleep_for(options_.delay);
    std::vector<Image> images;
    for (std::size_t camera : cameras)
      images.push_back(
          {kSide, kSide, std::vector<std::uint8_t>(kSide * kSide * 3, pixel(episode, step, camera))});
    return images;
  }
  const std::vector<std::vector<float>>& states(std::int64_t episode) const override {
    return states_[episode];
  }
  const RobotActions& actions(std::int64_t episode) const override { return actions_[episode]; }

 private:
  FakeOptions options_;
  std::filesystem::path path_;
  std::vector<EpisodeInfo> episodes_;
  std::vector<std::vector<std::vector<float>>> states_, actions_;
};

inline Dataset fake_dataset(const std::vector<FakeOptions>& files = {{}},
                            const std::vector<double>& weights = {}) {
  std::vector<Dataset::Source> sources;
  for (std::size_t i = 0; i < files.size(); ++i)
    sources.push_back({std::make_shared<FakeEpisodes>(files[i]), i < weights.size() ? weights[i] : 1.0});
  return Dataset(std::move(sources));
}

/// Fits the default FakeOptions.
inline PolicySpec fake_spec() {
  PolicySpec spec;
  spec.horizon = 3;
  spec.image_size = FakeEpisodes::kSide;
  spec.robot = {RobotKind::kJoints, 3, 2, {}};
  spec.norm_mode = NormMode::kLeRobotQuantiles;
  spec.prompt_mode = PromptMode::kPi05NoState;
  return spec;
}

/// With lerobot_quantiles these change nothing.
inline NormStats identity_stats(std::size_t state_dim = 3, std::size_t action_dim = 2) {
  const auto identity = [](std::size_t n) {
    return FeatureStats{std::vector<double>(n, 0.0), std::vector<double>(n, 1.0),
                        std::vector<double>(n, -1.0), std::vector<double>(n, 1.0)};
  };
  return {identity(state_dim), identity(action_dim)};
}

inline std::filesystem::path small_tokenizer() {
  return std::filesystem::path(SHALLOWPI_SOURCE_DIR) / "tests/data/tokenizer/small.model";
}

}  // namespace shallowpi::testing
