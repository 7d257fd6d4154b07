#include "runtime/loop_metrics.h"

#include <algorithm>
#include <cmath>

namespace shallowpi {
namespace {

std::vector<std::size_t> motion_dims(const RobotSpec& robot) {
  std::vector<std::size_t> dims;
  for (std::size_t d = 0; d < static_cast<std::size_t>(robot.action_dim); ++d) {
    const bool gripper = (robot.kind == RobotKind::kLibero && d == 6) ||
                         (robot.kind == RobotKind::kAloha && (d == 6 || d == 13));
    if (!gripper) dims.push_back(d);
  }
  return dims;
}

}  // namespace

LoopMetrics::LoopMetrics(const RobotSpec& robot, double control_hz, std::int64_t delay)
    : robot_(robot), control_hz_(control_hz), delay_(delay), motion_dims_(motion_dims(robot)) {}

void LoopMetrics::add_episode(const std::vector<ChunkTick>& ticks, const RobotActions& demonstrated) {
  ++episodes_;
  RobotActions executed;
  for (const ChunkTick& tick : ticks) {
    ++ticks_;
    waiting_ += tick.status == TickStatus::kWaiting;
    idle_ += tick.status != TickStatus::kActing && tick.tick >= delay_;
    if (tick.status == TickStatus::kActing) age_.add(tick.mean_age);
    if (tick.status == TickStatus::kWaiting) continue;
    executed.push_back(tick.action);
    const Action& shown = demonstrated[static_cast<std::size_t>(tick.tick)];
    for (std::size_t d = 0; d < shown.size(); ++d)
      error_.add(std::abs(static_cast<double>(tick.action[d]) - shown[d]));
  }
  add_reactions(ticks);
  add_jerk(executed);
}

/// For a change that the observation of tick e is the first to show: the first action whose newest
/// observation is of tick e or later. Changes too late for any action to know do not count.
void LoopMetrics::add_reactions(const std::vector<ChunkTick>& ticks) {
  std::size_t t = 0;
  for (std::size_t e = 0; e < ticks.size(); ++e) {
    const auto knows = [&](const ChunkTick& tick) {
      return tick.age >= 0 && tick.tick - tick.age >= static_cast<std::int64_t>(e);
    };
    t = std::max(t, e);  // an action that knows of e also knew of all before it
    while (t < ticks.size() && !knows(ticks[t])) ++t;
    if (t == ticks.size()) return;
    reaction_.add(static_cast<double>(t - e));
    worst_reaction_ = std::max(worst_reaction_, static_cast<std::int64_t>(t - e));
  }
}

/// LIBERO's commands are displacements, whose second difference is the third of the position.
void LoopMetrics::add_jerk(const RobotActions& actions) {
  const double per_second = std::pow(control_hz_, 3);
  const bool displacements = robot_.kind == RobotKind::kLibero;
  for (std::size_t t = 3; t < actions.size(); ++t)
    for (std::size_t d : motion_dims_) {
      const double a = actions[t - 3][d], b = actions[t - 2][d], c = actions[t - 1][d], e = actions[t][d];
      const double third = displacements ? e - 2 * c + b : e - 3 * c + 3 * b - a;
      squared_jerk_.add(std::pow(third * per_second, 2));
    }
}

void LoopMetrics::add_switch(const Action& action, const Action& planned) {
  for (std::size_t d : motion_dims_) jump_.add(std::abs(static_cast<double>(action[d]) - planned[d]));
}

void LoopMetrics::add_travel(const std::vector<std::vector<float>>& states) {
  const bool libero = robot_.kind == RobotKind::kLibero;
  const std::size_t dims = libero ? 3 : std::min(states.at(0).size(), motion_dims_.size());
  const double scale = libero ? 100.0 : 1.0;  // metres to cm
  for (std::size_t t = 1; t < states.size(); ++t) {
    double squared = 0;
    for (std::size_t i = 0; i < dims; ++i) {
      const std::size_t d = libero ? i : motion_dims_[i];
      squared += std::pow(static_cast<double>(states[t][d]) - states[t - 1][d], 2);
    }
    travel_per_tick_.add(scale * std::sqrt(squared));
  }
}

void LoopMetrics::finish(LoopReport& report) const {
  const auto in_ms = [&](std::optional<double> ticks) {
    return ticks ? std::optional(*ticks * 1000.0 / control_hz_) : std::nullopt;
  };
  report.episodes = episodes_;
  report.ticks = ticks_;
  report.reaction_ms = in_ms(reaction_.mean());
  if (worst_reaction_ >= 0) report.worst_reaction_ms = in_ms(static_cast<double>(worst_reaction_));
  report.observation_age_ms = in_ms(age_.mean());
  if (const auto squared = squared_jerk_.mean()) report.jerk = std::sqrt(*squared);
  report.discontinuity = jump_.mean();
  report.waiting_ticks = waiting_;
  report.idle_ticks = idle_;
  report.travel = travel_per_tick_.mean().value_or(0) * report.latency_ms * control_hz_ / 1000.0;
  report.travel_unit = robot_.kind == RobotKind::kLibero ? "cm" : "units";
  report.error = error_.mean();
}

}  // namespace shallowpi
