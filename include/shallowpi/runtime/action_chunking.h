// Which action a robot gets at each control tick, and when the policy is asked for the next chunk: a state
// machine that knows no clock, no thread and no network. Time is the number of the tick, so that it runs the
// same under a simulated clock, in a simulator and on a robot (action_chunk_controller.h).
//
//   for each tick:
//     for (each answer that has arrived) chunker.deliver(answer);
//     if (auto request = chunker.next_request()) send(*request, observation);  // or infer, deliver() at once
//     ChunkTick now = chunker.tick();                                          // now.action is sent
//
// Action i of a chunk that was requested at tick s belongs to tick s + i. An answer that is delivered before
// tick s + d therefore comes into force with its action d; its first d actions are in the past.
#pragma once

#include <cstdint>
#include <deque>
#include <optional>
#include <string>
#include <vector>

#include "shallowpi/base/enum_names.h"
#include "shallowpi/data/dataset.h"

namespace shallowpi {

using Action = std::vector<float>;  ///< [A], robot units: one of a chunk's RobotActions

enum class ChunkMode {
  kEnsemble,  ///< temporal ensembling (ACT): a weighted mean of all chunks that have an action for this tick
  kReceding,  ///< the newest chunk alone
  kRtc,       ///< the newest chunk alone, made to continue what is executed while it is computed
};
template <>
inline constexpr auto kEnumNames<ChunkMode> = std::to_array<EnumName<ChunkMode>>({
    {ChunkMode::kEnsemble, "ensemble"},
    {ChunkMode::kReceding, "receding"},
    {ChunkMode::kRtc, "rtc"},
});

struct ChunkingOptions {
  ChunkMode mode = ChunkMode::kEnsemble;
  std::int64_t execute = 7;   ///< ticks from one request to the next, where the answer is there by then
  std::int64_t horizon = 50;  ///< actions per chunk
  double control_hz = 30.0;   ///< ticks per second; only converts latencies
  /// ACT's m: the i-th chunk, oldest first, weighs exp(-m i); below 0 the newest weighs most.
  double ensemble_decay = 0.01;
  /// Ticks from a request to its answer. Chunks too short for it are refused, later answers are counted as
  /// late, and rtc conditions on that many actions (or on the longest of the episode's last ten delays, if
  /// that is more, up to what `trained_delay` allows). 0: not known.
  std::int64_t expected_delay = 0;
  /// The actions that the policy learned to continue (PolicySpec::rtc_training_max_delay): rtc gives no more
  /// after a slow answer. 0: not known; then each chunk keeps at least `execute` actions of its own.
  std::int64_t trained_delay = 0;
  /// [A] Action dims that are displacements or velocities. They hold still at 0, the others at their last
  /// value. Empty: none.
  std::vector<bool> relative_dims;
};

/// Longer latencies than a minute are mistakes.
inline constexpr double kMaxLatencyMs = 60000;
/// The first tick at which an answer that takes `latency_ms` (0 to kMaxLatencyMs) can be used, counted from
/// its request.
std::int64_t delay_ticks(double latency_ms, double control_hz);

/// The actions that a chunk must have for the robot never to run dry: one request is under way at a time, so
/// the next is made after max(execute, delay) ticks and answered `delay` ticks later.
std::int64_t needed_horizon(std::int64_t execute, std::int64_t delay);

/// Throws UsageError with all numbers where an option is out of range, or where a chunk is too short for
/// answers that take `delay` ticks.
void check_chunking(const ChunkingOptions& options, std::int64_t delay);

/// What to say where `rtc` gives a policy more actions of a chunk than it learned to continue
/// (PolicySpec::rtc_training_max_delay); empty where it does not.
std::string rtc_warning(std::int64_t delay, std::int64_t trained_delay);

/// What to send with the observation of this tick.
struct ChunkRequest {
  std::int64_t id = 0;
  std::int64_t tick = 0;  ///< of the observation, and of the chunk's action 0
  /// rtc: the actions of ticks tick, tick + 1, ... that will be executed whatever the answer.
  RobotActions prefix;
};

struct ChunkAnswer {
  std::int64_t id = 0;   ///< the request's
  RobotActions actions;  ///< [horizon][A]
  std::string error;     ///< not empty: inference failed, `actions` is ignored
};

enum class TickStatus {
  kWaiting,  ///< no action yet; `action` is what reset() was given
  kActing,
  kHolding,  ///< no chunk has an action for this tick: the last one is held
};
template <>
inline constexpr auto kEnumNames<TickStatus> = std::to_array<EnumName<TickStatus>>({
    {TickStatus::kWaiting, "waiting"},
    {TickStatus::kActing, "acting"},
    {TickStatus::kHolding, "holding"},
});

struct ChunkTick {
  std::int64_t tick = 0;
  TickStatus status = TickStatus::kWaiting;
  Action action;             ///< [A]; empty only while waiting without an initial action
  std::int64_t blended = 0;  ///< chunks in the action
  std::int64_t age = -1;     ///< ticks since the newest observation behind the action; -1: none
  double mean_age = -1;      ///< the same over all blended chunks, by their weight
  bool new_chunk = false;    ///< the first tick of a chunk
};

/// Since construction; reset() keeps them.
struct ChunkCounters {
  std::int64_t requests = 0;
  std::int64_t accepted = 0;  ///< answers in force; the late ones included
  std::int64_t late = 0;      ///< accepted after more than `expected_delay` ticks (where that is known)
  std::int64_t expired = 0;   ///< answers whose last action was already in the past
  std::int64_t failed = 0;    ///< answers with an error
  std::int64_t invalid = 0;   ///< answers that are not [horizon][A] finite numbers
  std::int64_t unknown = 0;   ///< answers to no request under way: from before a reset(), or repeated
  std::int64_t waiting_ticks = 0, held_ticks = 0;
};

class ActionChunker {
 public:
  /// Throws UsageError (check_chunking).
  explicit ActionChunker(ChunkingOptions options);

  /// Forgets all chunks and the request under way; ticks start at 0 again. `initial` is the action that is
  /// sent until the first chunk arrives: a command that is safe for the robot as it stands.
  void reset(Action initial = {});

  /// The request to send now, at most one per tick: `execute` ticks after the one before, once that is
  /// answered; at once after an answer that could not be used. Call it before tick(), and after deliver().
  std::optional<ChunkRequest> next_request();
  /// Whether it has one.
  bool wants_request() const { return !under_way_ && now_ >= request_at_; }

  /// Takes an answer. One that cannot be used is counted, explained in last_error() unless nobody asked for
  /// it, and changes nothing else: the chunks in force go on. Returns whether it can be used.
  bool deliver(ChunkAnswer answer);

  /// The action of this tick; then time moves on by one tick.
  ChunkTick tick();

  /// What the chunks in force have for a tick from now() on; empty: nothing.
  Action planned(std::int64_t tick) const;

  const ChunkingOptions& options() const { return options_; }
  const ChunkCounters& counters() const { return counters_; }
  /// Why the last answer could not be used; empty where it could, or there was none.
  const std::string& last_error() const { return last_error_; }
  std::int64_t now() const { return now_; }  ///< the number of the next tick

 private:
  struct Chunk {
    std::int64_t start = 0;
    RobotActions actions;
  };
  std::string fault(const RobotActions& actions) const;
  bool refuse(std::int64_t& counter, const std::string& why);
  RobotActions prefix() const;
  double weight(std::size_t position, std::size_t count) const;  // in the ensemble, oldest first
  double mean_age() const;
  void hold(ChunkTick& out);

  ChunkingOptions options_;
  ChunkCounters counters_;
  std::string last_error_;
  std::int64_t now_ = 0, next_id_ = 0;
  std::optional<ChunkRequest> under_way_;  // without its prefix
  std::int64_t request_at_ = 0;            // the tick from which the next request may be made
  std::deque<Chunk> chunks_;               // oldest first; those that have an action for now_ or later
  std::deque<std::int64_t> delays_;        // of the last answers, in ticks
  Action initial_, last_;
  bool acted_ = false, fresh_ = false;
};

}  // namespace shallowpi
