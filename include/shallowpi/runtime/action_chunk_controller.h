// The control loop on the robot: one action per tick from a policy that is slower than the loop. The action
// chunker (action_chunking.h) decides; inference runs on a thread of its own, so tick() never waits for it.
#pragma once

#include <condition_variable>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <thread>
#include <vector>

#include "shallowpi/base/stopwatch.h"
#include "shallowpi/data/policy_transform.h"
#include "shallowpi/runtime/action_chunking.h"

namespace shallowpi {

class PolicyRunner;

/// Computes the chunk [H][A] of an observation. `prefix` [D][A], D < H: the actions that will be executed
/// meanwhile, in rtc mode; else empty. What it throws is reported as a failed answer.
using ChunkInference = std::function<RobotActions(RobotObservation observation, const RobotActions& prefix)>;

/// Throws what is wrong with an observation; PolicyRunner::check for a loaded policy.
using ObservationCheck = std::function<void(const RobotObservation& observation)>;

/// Defaults for a policy: its horizon, its control rate where that is known, how many actions it learned to
/// continue, and the dims that its robot reads as displacements (LIBERO's first six). The joints of other
/// robots are positions unless the caller says otherwise.
ChunkingOptions chunking_for(const PolicySpec& spec);

/// Inference by a loaded policy, which is warmed up here, with noise from (seed, number of the call), times
/// `noise_scale`. Calls are serialised, so that several controllers may share a runner.
ChunkInference runner_inference(std::shared_ptr<PolicyRunner> runner, std::int64_t steps = kEulerSteps,
                                std::uint64_t seed = 42, double noise_scale = 1);

/// All functions belong to one thread, the control loop's.
class ActionChunkController {
 public:
  /// Throws UsageError (check_chunking).
  ActionChunkController(const ChunkingOptions& options, ChunkInference infer, ObservationCheck check = {});
  ~ActionChunkController();  ///< waits for the inference that is under way
  ActionChunkController(const ActionChunkController&) = delete;
  ActionChunkController& operator=(const ActionChunkController&) = delete;

  /// Call once per control period; returns the action to send now. The observation is copied only at ticks
  /// that ask for a chunk. Throws what `check` throws, at every tick, and then nothing has happened.
  ChunkTick tick(const RobotObservation& observation);
  /// A new episode; `initial` is sent until its first chunk arrives (ActionChunker::reset).
  void reset(Action initial = {}) { chunker_.reset(std::move(initial)); }

  const ChunkCounters& counters() const { return chunker_.counters(); }
  const std::string& last_error() const { return chunker_.last_error(); }
  /// Wall time of the last answer, from its request to the end of inference; 0 before the first.
  double last_latency_ms() const { return last_latency_ms_; }

 private:
  struct Job {
    ChunkRequest request;
    RobotObservation observation;
    Stopwatch since;  // the request
  };
  struct Answer {
    ChunkAnswer answer;
    double latency_ms = 0;
  };
  void work();
  ChunkAnswer infer(Job& job) const;

  ActionChunker chunker_;
  ChunkInference infer_;
  ObservationCheck check_;
  double last_latency_ms_ = 0;

  std::mutex mutex_;  // guards what follows
  std::condition_variable changed_;
  std::optional<Job> job_;
  std::vector<Answer> answers_;
  bool stop_ = false;
  std::thread worker_;  // last: it uses all of the above
};

}  // namespace shallowpi
