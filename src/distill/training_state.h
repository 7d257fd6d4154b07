// What a run needs, beside its configuration, to go on as if it had never stopped. Batches and flow draws are
// functions of (seed, step), so there is no generator state in it.
#pragma once

#include <filesystem>
#include <limits>
#include <string>

#include "distill/metrics.h"
#include "distill/step_guard.h"
#include "shallowpi/base/json.h"
#include "shallowpi/base/safetensors.h"

namespace shallowpi {

struct TrainingState {
  std::int64_t step = 0;     ///< steps done
  std::int64_t updates = 0;  ///< of which changed the weights (AdamW's bias correction)
  StepGuard guard;
  MetricWindow window;
  double best_loss = std::numeric_limits<double>::infinity();  ///< held-out
  std::int64_t best_step = -1;
  std::uint64_t metrics_bytes = 0;  ///< size of metrics.jsonl at this step
  // Of RunInputs; empty in states that older programs wrote.
  std::string demonstrations;
  std::string start;
};

/// Where a run starts.
struct StartPoint {
  std::filesystem::path checkpoint;  ///< empty: at step 0
  TrainingState state;
  bool is_own = false;  ///< the checkpoint is the run's own, not another run's
};

/// A visitor over all members, for writing and reading alike.
template <typename State, typename Visit>
void visit_fields(State& state, Visit&& visit) {
  visit("step", state.step);
  visit("updates", state.updates);
  visit("guard.norms", state.guard.norms);
  visit("guard.next", state.guard.next);
  visit("guard.skipped", state.guard.skipped);
  visit("guard.in_a_row", state.guard.in_a_row);
  visit("window.sums", state.window.sums);
  visit("window.steps", state.window.steps);
  visit("best_loss", state.best_loss);
  visit("best_step", state.best_step);
  visit("metrics_bytes", state.metrics_bytes);
  visit("demonstrations", state.demonstrations);
  visit("start", state.start);
}

/// Writes state.json, config.yaml (the resolved configuration's text) and optimizer.safetensors into the
/// existing `folder`; `tensors` are the master weights, moments and EMA.
void write_training_state(const std::filesystem::path& folder, const TrainingState& state,
                          const std::string& config, const NamedTensors& tensors);

/// Throws CorruptError where state.json is missing or malformed.
TrainingState read_training_state(const std::filesystem::path& folder);

/// Reads the tensors into `tensors` in place. Throws CorruptError listing names and shapes that differ.
void read_training_tensors(const std::filesystem::path& folder, const NamedTensors& tensors);

}  // namespace shallowpi
