// One episode as a state machine between a simulator and a policy; it does no input or output itself.
#pragma once

#include <optional>

#include "eval/rollout_results.h"
#include "eval/rollout_settings.h"
#include "eval/simulator.h"

namespace shallowpi {

/// A task as the simulator describes it.
struct TaskInfo {
  std::string language;
  std::int64_t init_states = 0;
};

/// simulator_request() -> take_simulator_answer() -> while wants_policy(): call() to the policy ->
/// take_actions() -> simulator_request() ... until finished().
class Episode {
 public:
  Episode(EpisodeKey key, TaskInfo task, const RolloutSettings& settings);

  /// The next message for the simulator: the reset, then steps up to the next tick that needs an observation.
  Json simulator_request() const;
  void take_simulator_answer(SimulatorAnswer answer);
  bool wants_policy() const { return call_.has_value(); }
  const PolicyCall& call() const { return *call_; }
  /// The chunk for call(). Throws Error where it cannot be executed, and UsageError where it is too short for
  /// the latency.
  void take_actions(RobotActions actions, double milliseconds);
  bool finished() const { return finished_; }

  const EpisodeRecord& record() const { return record_; }
  /// The last answer's frames, one after the other, where the episode is recorded: RGB, image_size x
  /// 2 image_size.
  std::string_view frames() const;
  bool recorded() const { return record_frames_; }
  const EpisodeKey& key() const { return record_.key; }
  bool started() const { return started_; }

 private:
  void plan();
  void ask(std::int64_t tick);
  RobotObservation observation(const SimulatorAnswer& answer) const;
  void add_to_trace(std::string_view bytes);

  RolloutSettings settings_;
  TaskInfo task_;
  EpisodeRecord record_;
  std::int64_t max_steps_;
  bool record_frames_, started_ = false, finished_ = false;
  std::optional<ActionChunker> chunker_;     // once the length of a chunk is known
  std::optional<ChunkAnswer> chunk_answer_;  // computed, on its way
  std::int64_t chunk_answer_tick_ = 0;
  std::optional<ChunkRequest> chunk_request_;  // at the tick where planned_ ends
  RobotActions planned_;                       // actions up to there
  std::optional<PolicyCall> call_;
  SimulatorAnswer last_;
};

}  // namespace shallowpi
