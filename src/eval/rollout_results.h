// results.json of a rollout: every episode, and what the run was.
// It is the output and the state to resume from.
#pragma once

#include <filesystem>
#include <map>
#include <string>
#include <vector>

#include "shallowpi/eval/rollout_policy.h"

namespace shallowpi {

struct EpisodeRecord {
  EpisodeKey key;
  std::string language;  ///< the task's instruction
  std::int64_t init_state = 0;
  std::uint64_t seed = 0;  ///< of the simulator's reset
  /// {displaced: {object: [dx, dy] m}, velocity: {object: [vx, vy] m/s}}, and as the simulator measured it
  /// at_start, at_end: {object: [dx, dy] m from its place in the initial state}.
  Json perturbation;
  bool success = false;
  std::int64_t steps = 0;     ///< control steps after settling
  std::int64_t calls = 0;     ///< of the policy
  double policy_ms = 0;       ///< sum over the calls
  double seconds = 0;         ///< of the attempt that counts
  std::int64_t attempts = 1;  ///< more where the simulator failed
  std::string trace;          ///< hash of every action and state: equal traces are equal episodes
};

/// What an episode's files are called by: "libero_goal_task3_trial0".
std::string file_stem(const EpisodeKey& key);
/// Where the rollout in `folder` keeps the video of an episode that it recorded.
std::filesystem::path video_file(const std::filesystem::path& folder, const EpisodeRecord& record);

struct RolloutResults {
  Json policy, settings;  ///< RolloutPolicy::identity, RolloutSettings::json
  Json machine;           ///< versions, workers: what should not matter
  std::map<EpisodeKey, EpisodeRecord> episodes;

  Json json() const;
};

/// Throws CorruptError where the file is not one that write_results wrote.
RolloutResults read_results(const std::filesystem::path& file);
/// Atomically.
void write_results(const std::filesystem::path& file, const RolloutResults& results);
/// Takes over the episodes of an earlier run in `file`, if there is one. Throws UsageError where that was
/// another run, naming what differs.
void resume_from(const std::filesystem::path& file, RolloutResults& results);

/// Successes of a group of episodes.
struct SuccessCount {
  std::int64_t successes = 0, episodes = 0;
  double steps = 0;  ///< sum over the successes
  SuccessCount& operator+=(const SuccessCount& other);
  double rate() const { return episodes > 0 ? double(successes) / double(episodes) : 0; }
};
/// Per (suite, task), in order.
std::map<std::pair<std::string, std::int64_t>, SuccessCount> count_by_task(const RolloutResults& results);
SuccessCount count_all(const RolloutResults& results);
/// {successes, episodes, rate, wilson_95: [low, high]}.
Json count_json(const SuccessCount& count);
/// "successes/episodes", per cent, and its 95 % Wilson interval, for tables.
std::vector<std::string> success_cells(const SuccessCount& count);
/// The table that a rollout ends with.
std::string rollout_table(const RolloutResults& results);
/// One self-contained page.
std::string rollout_html(const RolloutResults& results);

}  // namespace shallowpi
