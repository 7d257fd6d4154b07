// The training loop of one run.
#pragma once

#include <filesystem>
#include <map>
#include <memory>
#include <optional>
#include <string>

#include "distill/background_task.h"
#include "distill/metrics.h"
#include "distill/progress.h"
#include "distill/replicas.h"
#include "distill/run_folder.h"
#include "distill/run_inputs.h"
#include "distill/stop_signal.h"
#include "distill/training_state.h"
#include "shallowpi/base/safetensors.h"
#include "shallowpi/base/stopwatch.h"
#include "shallowpi/data/loader.h"
#include "shallowpi/distill/config.h"
#include "shallowpi/distill/setup.h"

namespace shallowpi {

/// Trains a policy, or distils one into a shallow student, on all of setup.devices.
class Trainer {
 public:
  /// `models`: one pair for each device. `start`: of a run with the same configuration and inputs.
  Trainer(TrainingSetup setup, const std::vector<TrainingModels>& models, RunInputs inputs, RunFolder& folder,
          const StartPoint& start, bool quiet);

  /// Steps until train.steps or until `stop` is requested, with the last step saved. Throws DivergedError
  /// after too many skipped steps in a row or where all were skipped, and what writing a checkpoint threw.
  void run(const StopSignal& stop);

  const TrainingState& state() const { return state_; }
  const Replicas& replicas() const { return replicas_; }

 private:
  /// Where something fails that leaves the weights as they are. Throws nothing.
  void save_before_failing();
  TrainingBatch next_batch();
  StepResult compute_gradient(const TrainingBatch& batch);
  FlowDraw draw(const TrainingBatch& batch, std::uint64_t seed) const;
  void apply(const StepResult& result, const TrainingBatch& batch);
  void log_if_due();
  void evaluate_if_due();
  void save_if_due();
  void save();
  void skip(const StepResult& result, StepVerdict verdict, const TrainingBatch& batch);
  void give_up(const StepResult& result, StepVerdict verdict, const std::string& frames);
  void restore(const StartPoint& start);
  Scalars held_out_losses();
  /// Flat vectors by kind (Replicas::state) as views "KIND/TENSOR".
  NamedTensors by_name(const std::map<std::string, torch::Tensor>& vectors) const;
  StepTiming take_timing();
  bool is_due(std::int64_t every) const;

  TrainingSetup setup_;
  const DistillConfig& config_;
  const RunInputs inputs_;
  RunFolder& folder_;
  Replicas replicas_;
  TrainingState state_;
  // What every checkpoint takes over is kept open: whoever made it may remove it meanwhile.
  std::optional<SafetensorsFolder> origin_weights_;
  std::vector<TrainingBatch> held_out_;  // empty: nothing is evaluated
  std::optional<double> held_out_loss_;  // of this step, where it was evaluated
  std::int64_t first_step_ = 0;          // of this process
  std::int64_t saved_step_ = 0;          // whose checkpoint is in the folder; step 0 needs none
  std::unique_ptr<MetricsLog> metrics_;
  std::unique_ptr<Loader> loader_;
  Progress progress_;
  Stopwatch stopwatch_;  // since the last line of timing
  std::int64_t timed_from_step_ = 0;
  double timed_wait_ = 0;
  BackgroundTask writer_;  // last: its job must end before anything else goes
};

}  // namespace shallowpi
