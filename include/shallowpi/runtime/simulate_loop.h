// `shallowpi-infer simulate-loop`: the control loop without a robot. Plays the action chunker against
// recorded episodes under a simulated clock and measures what a given inference latency costs.
#pragma once

#include <torch/types.h>

#include <filesystem>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "shallowpi/base/json.h"
#include "shallowpi/base/policy_spec.h"
#include "shallowpi/data/demonstrations.h"
#include "shallowpi/runtime/action_chunking.h"

namespace shallowpi {

/// The chunk [H][A] that a policy answers at one step of an episode, given the actions of a prefix (rtc). It
/// must be a function of its arguments alone.
using EpisodePolicy = std::function<RobotActions(const Dataset::Sample& sample, const RobotActions& prefix)>;

/// The demonstration as a policy: its next `horizon` actions, the last one repeated beyond the end.
EpisodePolicy demonstration_policy(const Dataset& dataset, std::int64_t horizon);

/// What one (mode, latency) did over all episodes. A recorded frame is one control tick.
struct LoopReport {
  std::string mode;  ///< "demonstration" for the recorded actions themselves
  double latency_ms = 0;
  std::int64_t delay = 0;   ///< the latency in ticks
  std::int64_t needed = 0;  ///< actions that a chunk needs for it (needed_horizon)
  std::int64_t episodes = 0, ticks = 0;
  /// From a change in the world to the first action that knows of it: mean over the ticks at which it may
  /// happen, and the worst. Empty where no action ever knew.
  std::optional<double> reaction_ms, worst_reaction_ms;
  /// Age of the observations behind an action, by their weight in it; mean.
  std::optional<double> observation_age_ms;
  /// Root mean square over motion dims of the commands' third derivative of position, units / s^3.
  std::optional<double> jerk;
  /// Mean absolute difference, over motion dims, between the first action of a new chunk and what the old
  /// ones had planned for that tick; robot units.
  std::optional<double> discontinuity;
  std::int64_t waiting_ticks = 0;  ///< before the first action
  std::int64_t idle_ticks = 0;     ///< without an action, but for the first `delay` of each episode
  /// How far the recorded robot moves during one inference, mean: `travel_unit` is "cm" of the end effector
  /// (LIBERO), else "units" of joint space.
  double travel = 0;
  std::string travel_unit;
  std::optional<double> error;  ///< mean absolute, against the demonstrated action of the tick; robot units
  Json json() const;
};

struct LoopSettings {
  ChunkingOptions chunking;  ///< of all modes; `expected_delay` is set from the latency
  double latency_ms = 110;
  RobotSpec robot;            ///< as wide as the data, and as the policy's answers
  std::int64_t episodes = 0;  ///< of each file, the first; 0: all
  std::function<void(std::int64_t done, std::int64_t total)> progress;  ///< in episodes; may be empty
};

/// Plays the episodes of all files.
LoopReport simulate_loop(const Dataset& dataset, const EpisodePolicy& policy, const LoopSettings& settings);
/// The row of the demonstrations themselves.
LoopReport demonstration_report(const Dataset& dataset, const LoopSettings& settings);

std::string loop_table(const std::vector<LoopReport>& reports);

struct SimulateLoopOptions {
  /// Empty: the demonstration answers, so that only the timing is measured.
  std::filesystem::path checkpoint;
  std::vector<std::string> data;  ///< files or patterns
  std::int64_t episodes = 0;      ///< of each file, the first; 0: all
  std::vector<double> latencies_ms{110};
  std::optional<double> control_hz;  ///< default: the demonstrations', else 30
  std::int64_t execute = 7;
  std::vector<ChunkMode> modes{ChunkMode::kEnsemble, ChunkMode::kReceding, ChunkMode::kRtc};
  double ensemble_decay = 0.01;
  std::optional<std::int64_t> horizon;  ///< where the checkpoint does not say it, or there is none (50)
  std::string tokenizer;                ///< empty: found by find_tokenizer()
  std::int64_t steps = kEulerSteps;
  std::filesystem::path json;  ///< empty: none
  bool quiet = false;
  std::uint64_t seed = 42;
  double noise_scale = 1;
  torch::Device device = torch::kCPU;
  torch::Dtype dtype = torch::kFloat32;
};

/// Prints the table on stdout. Throws UsageError for options out of range or that do not fit the data. A
/// chunk too short for a latency is simulated, with a warning: the idle ticks show what it costs.
void run_simulate_loop(const SimulateLoopOptions& options);

}  // namespace shallowpi
