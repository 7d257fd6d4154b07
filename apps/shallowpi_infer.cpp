// Runs a policy once on a tensor file, inspects checkpoints.
#include "common.h"
#include "shallowpi/runtime/inspect.h"
#include "shallowpi/runtime/run.h"

using namespace shallowpi;

namespace {

constexpr const char* kExamples = R"(Examples:
  shallowpi-infer run --checkpoint runs/l6/last --input observation.safetensors --output actions.safetensors
  shallowpi-infer inspect runs/l6/last
)";

CLI::App* add_run(CLI::App& app, RunOptions& options) {
  CLI::App* run = app.add_subcommand("run", "sample one action chunk for each observation of a tensor file");
  run->add_option("--checkpoint", options.checkpoint, "our, openpi's or LeRobot's folder")
      ->type_name("DIR")
      ->required();
  run->add_option("--input", options.input, "tensors in.image_0, in.tokens, ... (docs/checkpoints.md)")
      ->type_name("FILE.safetensors")
      ->required();
  run->add_option("--output", options.output,
                  "file to write: out.sampled_actions, out.velocity, out.prefix_embeddings")
      ->type_name("FILE.safetensors")
      ->required();
  run->add_option("--steps", options.steps, "Euler steps")
      ->type_name("N")
      ->check(CLI::Range(1, 1000))
      ->capture_default_str();
  run->add_option("--horizon", options.horizon, "action steps, where the checkpoint does not say it")
      ->type_name("H")
      ->check(CLI::Range(1, 1024));
  return run;
}

}  // namespace

int main(int argc, char** argv) {
  CommonOptions common;
  RunOptions run_options;
  InspectOptions inspect_options;
  CLI::App app("Runs pi0 and pi0.5 policies and looks into their checkpoints.", "shallowpi-infer");
  app.footer(kExamples);
  app.require_subcommand(1);

  CLI::App* run = add_run(app, run_options);
  add_common_options(*run, common);
  CLI::App* inspect =
      app.add_subcommand("inspect", "say what a checkpoint is, what it lacks and what looks wrong");
  inspect->add_option("folder", inspect_options.folder, "checkpoint folder")->type_name("DIR")->required();
  inspect->add_flag("--json", inspect_options.json, "print JSON");
  add_common_options(*inspect, common);

  return parse_and_run(app, argc, argv, common, [&] {
    if (inspect->parsed()) return run_inspect(inspect_options);
    run_options.device = parse_device(common.device);
    run_options.dtype = parse_dtype(common.dtype, run_options.device);
    run_options.seed = common.seed.value_or(run_options.seed);
    return run_policy_on_file(run_options);
  });
}
