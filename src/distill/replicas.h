// Data-parallel training in one process. Every device has a copy of the models and computes its share of each
// batch; of the optimiser's moments and the EMA it holds those of its share of the parameters only (ZeRO,
// stage 1).
#pragma once

#include <functional>
#include <map>
#include <string>
#include <vector>

#include "distill/flat_parameters.h"
#include "distill/metrics.h"
#include "distill/optimizer.h"
#include "distill/team.h"
#include "shallowpi/distill/distiller.h"
#include "shallowpi/distill/flow.h"
#include "shallowpi/distill/setup.h"

namespace shallowpi {

/// What the forward and backward passes of a step came to.
struct StepResult {
  Scalars losses;            ///< "loss" first, then each term unweighted
  double gradient_norm = 0;  ///< of the mean loss over the batch
};

class Replicas {
 public:
  /// Trains the models that are given: those for setup.devices, in that order, with equal weights.
  Replicas(const TrainingSetup& setup, const std::vector<TrainingModels>& models);

  /// Forward and backward passes of a batch: replica i takes the i-th part of it, in train.accumulate pieces.
  StepResult compute_gradient(const TrainingBatch& batch, const FlowDraw& draw);
  /// Clips the gradient, which has this norm, and updates weights and EMA.
  void update(double gradient_norm, double learning_rate);

  /// The losses of a batch of any size on the first device, without a gradient.
  LossTerms evaluate(const TrainingBatch& batch, const FlowDraw& draw);
  /// What evaluate() computes with: the EMA weights where there are some, or, as training needs them, the
  /// master weights.
  void use_ema();
  void use_master();

  /// Float32 [N] on the CPU, new copies: "master", "exp_avg", "exp_avg_sq" and, where there is one, "ema".
  std::map<std::string, torch::Tensor> state() const;
  /// Goes on from such a state after `updates` updates.
  void restore(const std::map<std::string, torch::Tensor>& state, std::int64_t updates);

  std::size_t size() const { return replicas_.size(); }
  bool has_ema() const { return replicas_.front().ema.defined(); }
  bool shares_tower() const { return replicas_.front().distiller.shares_tower(); }
  std::int64_t updates() const { return replicas_.front().optimizer.updates; }
  /// The first replica's.
  Policy student() const { return replicas_.front().student; }
  const FlatParameters& parameters() const { return replicas_.front().parameters; }

 private:
  struct Replica {
    Replica(const TrainingSetup& setup, std::size_t index, TrainingModels models);
    /// Its part of a flat vector [N].
    torch::Tensor share(const torch::Tensor& whole) const { return whole.slice(0, begin, end); }

    torch::Device device;
    Policy student;
    FlatParameters parameters;
    std::int64_t begin, end;  // its share of them
    AdamW optimizer;          // of the share
    torch::Tensor ema;        // of the share; undefined without EMA
    Distiller distiller;
  };
  /// Every pair of different replicas once in either direction, always in the same order.
  void exchange(const std::function<void(Replica& to, const Replica& from)>& copy);

  OptimizerConfig optimizer_config_;
  std::int64_t accumulate_;
  std::vector<Replica> replicas_;
  Team team_;  // a thread for each replica
};

}  // namespace shallowpi
