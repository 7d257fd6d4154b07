// Times a training step (task loss only) or sample_actions of a policy on a tensor file, and measures the
// process's memory. Prints one JSON object; benchmarks/lerobot/side_by_side.py runs LeRobot's beside it.
//   policy_benchmark train|sample --checkpoint DIR --input FILE [--draws R] [--repetitions N] [--warmup N]
#include <CLI/CLI.hpp>
#include <ctime>
#include <iostream>

#include "distill/flat_parameters.h"
#include "distill/optimizer.h"
#include "shallowpi/base/error.h"
#include "shallowpi/base/json.h"
#include "shallowpi/base/memory.h"
#include "shallowpi/distill/distiller.h"
#include "shallowpi/distill/setup.h"
#include "shallowpi/model/checkpoint.h"
#include "shallowpi/runtime/engine.h"
#include "shallowpi/runtime/tensor_file.h"

using namespace shallowpi;

namespace {

constexpr double kMiB = 1 << 20;

struct Options {
  std::string task, checkpoint, input;
  std::int64_t draws = 1, repetitions = 5, warmup = 1, steps = 10;
  int threads = 1;
  bool checkpointing = false;
};

/// CPU time of this process: with one thread, what the clock on the wall shows on an idle machine.
double cpu_seconds() {
  return static_cast<double>(std::clock()) / CLOCKS_PER_SEC;
}

/// Everything that a training step does: gradient, clipping, AdamW. LeRobot's preset for pi0.5.
class TrainingStep {
 public:
  TrainingStep(Policy policy, const PolicyInputs& inputs, std::int64_t draws)
      : inputs_(inputs),
        draws_(draws),
        parameters_(trainable_groups(policy, {})),
        optimizer_(lerobot_preset(), parameters_.master()),
        distiller_(policy, Policy(nullptr), {.task = 1.0, .kd = 0.0, .attn = 0.0}, {},
                   inputs.actions_bhd.size(2)) {}

  /// Returns the loss.
  double operator()() {
    const TrainingBatch batch{inputs_.observation, inputs_.actions_bhd};
    const FlowDraw draw = draws_ == 1 ? make_flow(batch.actions_bhd, inputs_.noise_bhd, inputs_.time_b)
                                      : draw_flow(batch.actions_bhd, {.draws = draws_}, 1);
    parameters_.zero_gradient();
    const torch::Tensor loss = objective(distiller_.losses(batch, draw));
    loss.backward();
    parameters_.collect_gradient();
    clip_gradient(parameters_.gradient(), parameters_.gradient().norm().item<double>(), 1.0);
    optimizer_.step(parameters_.master(), parameters_.gradient(), 2.5e-5);
    parameters_.use(parameters_.master());
    return loss.item<double>();
  }

 private:
  static OptimizerConfig lerobot_preset() {
    OptimizerConfig config;
    config.weight_decay = 0.01;
    return config;
  }

  const PolicyInputs& inputs_;
  std::int64_t draws_;
  FlatParameters parameters_;
  AdamW optimizer_;
  Distiller distiller_;
};

/// The first result (a loss, or the mean absolute action) tells that both sides computed the same.
Json measure(const Options& options, const std::function<double()>& once) {
  Json out;
  out["task"] = options.task;
  out["first_result"] = once();
  for (std::int64_t i = 1; i < options.warmup; ++i) once();
  out["cpu_seconds"] = Json::array();
  for (std::int64_t i = 0; i < options.repetitions; ++i) {
    const double start = cpu_seconds();
    once();
    out["cpu_seconds"].push_back(cpu_seconds() - start);
  }
  return out;
}

int run(const Options& options) {
  at::set_num_threads(options.threads);
  const std::uint64_t baseline = resident_bytes();
  const CheckpointInfo info = read_checkpoint_info(options.checkpoint, 10);
  const PolicyInputs inputs = read_policy_inputs(options.input, info.config);
  Policy policy =
      load_policy(info, torch::kFloat32, torch::kCPU, {.activation_checkpointing = options.checkpointing});
  Json out;
  if (options.task == "train") {
    TrainingStep step(policy, inputs, options.draws);
    out = measure(options, step);
  } else {
    const auto engine = make_engine(policy, torch::kCPU);  // what `run` and `serve` use
    const EngineRequest request{inputs.observation, inputs.noise_bhd, options.steps};
    out = measure(options, [&] { return engine->sample(request).abs().mean().item<double>(); });
  }
  out["baseline_mib"] = static_cast<double>(baseline) / kMiB;
  out["peak_mib"] = static_cast<double>(peak_resident_bytes()) / kMiB;
  std::cout << out.dump() << std::endl;
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  Options options;
  CLI::App app("Times a training step or sample_actions of a policy.");
  app.add_option("task", options.task)->required()->check(CLI::IsMember({"train", "sample"}));
  app.add_option("--checkpoint", options.checkpoint)->required();
  app.add_option("--input", options.input)->required();
  app.add_option("--draws", options.draws);
  app.add_option("--repetitions", options.repetitions);
  app.add_option("--warmup", options.warmup);
  app.add_option("--steps", options.steps);
  app.add_option("--threads", options.threads);
  app.add_flag("--activation-checkpointing", options.checkpointing);
  CLI11_PARSE(app, argc, argv);
  try {
    return run(options);
  } catch (const std::exception& error) {
    std::cerr << "policy_benchmark: " << error.what() << "\n";
    return 1;
  }
}
