// What a run of the control loop over recorded episodes is worth in numbers.
#pragma once

#include <vector>

#include "shallowpi/base/policy_spec.h"
#include "shallowpi/runtime/simulate_loop.h"

namespace shallowpi {

/// Sum and count of a mean.
struct RunningMean {
  double sum = 0;
  std::int64_t count = 0;
  void add(double value) {
    sum += value;
    ++count;
  }
  std::optional<double> mean() const {
    if (count == 0) return std::nullopt;
    return sum / static_cast<double>(count);
  }
};

class LoopMetrics {
 public:
  /// The first `delay` ticks of an episode are without an action whatever the loop does, and not idle.
  LoopMetrics(const RobotSpec& robot, double control_hz, std::int64_t delay);

  /// One played episode: its ticks, and what was demonstrated at each of them.
  void add_episode(const std::vector<ChunkTick>& ticks, const RobotActions& demonstrated);
  /// At the first tick of a new chunk: the action, and what the chunks before it had planned.
  void add_switch(const Action& action, const Action& planned);
  /// The recorded states [T][S].
  void add_travel(const std::vector<std::vector<float>>& states);

  /// `latency_ms` of the report is already set.
  void finish(LoopReport& report) const;

 private:
  void add_reactions(const std::vector<ChunkTick>& ticks);
  void add_jerk(const RobotActions& actions);

  RobotSpec robot_;
  double control_hz_;
  std::int64_t delay_;
  std::vector<std::size_t> motion_dims_;  // of actions: all but grippers
  std::int64_t episodes_ = 0, ticks_ = 0, waiting_ = 0, idle_ = 0, worst_reaction_ = -1;
  RunningMean reaction_, age_, squared_jerk_, jump_, travel_per_tick_, error_;
};

}  // namespace shallowpi
