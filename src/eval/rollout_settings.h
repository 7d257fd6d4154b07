// The options of a rollout, checked and with the protocol's values filled in.
#pragma once

#include "shallowpi/eval/rollout.h"

namespace shallowpi {

inline constexpr double kControlHz = 20;

struct Perturbation {
  std::string object, kind;  ///< kind: xy, x, y, r
  double metres = 0;
};

struct Movement {
  std::string object;
  double speed = 0;             ///< m/s
  std::optional<double> angle;  ///< rad; empty: drawn per episode
};

/// What decides the outcome of an episode, beside the policy.
struct RolloutSettings {
  Protocol protocol = Protocol::kOpenpi;
  std::optional<std::int64_t> max_steps;  ///< empty: the protocol's for the suite
  std::int64_t trials = 0, settle = 0, replan = 0, image_size = 0;
  std::uint64_t seed = 0;
  std::vector<Perturbation> perturb;
  std::vector<Movement> move;
  double latency_ms = 0;
  ChunkMode chunking = ChunkMode::kReceding;
  std::int64_t batch = 1;
  bool needs_images = true, always_render = false;
  std::int64_t videos = 0;
  std::vector<std::int64_t> video_trials;

  std::int64_t steps_allowed(const std::string& suite) const;
  bool records(std::int64_t trial) const;
  bool records_any() const { return videos > 0 || !video_trials.empty(); }
  std::int64_t delay() const { return delay_ticks(latency_ms, kControlHz); }
  ChunkingOptions chunking_options(std::int64_t horizon) const;
  /// What two runs must share to continue each other.
  Json json() const;
};

/// Throws UsageError for whatever does not make sense. `demo_image_size`: that of the policy.
RolloutSettings resolve_settings(const RolloutOptions& options, std::int64_t demo_image_size = 0);

}  // namespace shallowpi
