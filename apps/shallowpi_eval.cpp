// Measures policies.
#include "common.h"
#include "rollout_options.h"
#include "shallowpi/eval/layers.h"
#include "shallowpi/eval/offline.h"

using namespace shallowpi;

namespace {

constexpr const char* kExamples = R"(Examples:
  shallowpi-eval offline --checkpoint runs/l6/last --teacher checkpoints/pi05_libero --data demos/*.hdf5
  shallowpi-eval offline --checkpoint l6=runs/l6/last --checkpoint l9=runs/l9/last --teacher checkpoints/pi05_libero \
      --held-out runs/l6/config.yaml --skipped --out report.json
  shallowpi-eval offline --checkpoint runs/l6/last --batch batch.safetensors
  shallowpi-eval similarity --checkpoint checkpoints/pi05_libero --data demos/*.hdf5
  shallowpi-eval skip --checkpoint checkpoints/pi05_libero --held-out runs/l6/config.yaml --layers 6
  shallowpi-eval rollout --checkpoint runs/l6/last --suite libero_object --trials 10 --workers 2 --out rollouts/l6
  shallowpi-eval compare rollouts/teacher rollouts/l6
)";

/// What every measurement on demonstrations takes.
void add_data_options(CLI::App& command, OfflineOptions& offline, DemoOptions& demos) {
  add_demo_options(command, demos);
  command.add_option("--frames", offline.frames, "measure this many frames, evenly spread; 0: all")
      ->type_name("N")
      ->capture_default_str();
  add_steps(command, offline.measure.steps);
  command.add_option("--batch-size", offline.measure.batch_size, "frames per forward pass")
      ->type_name("N")
      ->check(within(1, 4096))
      ->capture_default_str();
  add_horizon(command, offline.horizon, "action steps, where a checkpoint does not say it");
  command.add_option("--out", offline.out, "write the report as JSON")
      ->type_name("FILE.json")
      ->check(kOutputFile);
}

void add_draws(CLI::App& command, OfflineOptions& offline) {
  command.add_option("--draws", offline.measure.draws, "draws of noise and time per frame")
      ->type_name("R")
      ->check(within(1, 256))
      ->capture_default_str();
}

CLI::App* add_offline(CLI::App& app, OfflineOptions& offline, DemoOptions& demos) {
  CLI::App* command =
      app.add_subcommand("offline", "open-loop errors on demonstrations, or the losses of a tensor file");
  command->add_option("--checkpoint", offline.checkpoints, "policy to measure; may be repeated, and named")
      ->type_name("[LABEL=]DIR")
      ->required()
      ->allow_extra_args(false);
  command->add_option("--teacher", offline.teacher, "policy to compare with")->type_name("DIR");
  CLI::Option* batch =
      command->add_option("--batch", offline.batch, "a tensor file instead of demonstrations")
          ->type_name("FILE.safetensors");
  command->add_flag("--skipped", offline.skipped, "measure each student as it was before its training too");
  command
      ->add_option("--per-frame", offline.per_frame,
                   "write each frame's losses (JSON lines, or CSV by its name)")
      ->type_name("FILE")
      ->check(kOutputFile);
  command
      ->add_option("--plot", offline.plot,
                   "draw chunks, one after the other, over the demonstrated actions, as a web page")
      ->type_name("FILE.html")
      ->check(kOutputFile);
  add_data_options(*command, offline, demos);
  add_noise_scale(*command, offline.measure.noise_scale);
  add_draws(*command, offline);
  // A tensor file brings its own frames and draws, and no actions are sampled.
  for (const char* of_demos : {"--set", "--frames", "--steps", "--batch-size", "--draws", "--noise-scale"})
    batch->excludes(command->get_option(of_demos));
  return command;
}

/// The two commands about the layers of one policy.
CLI::App* add_layer_study(CLI::App& app, LayerStudyOptions& study, DemoOptions& demos, const char* name,
                          const char* description) {
  constexpr std::int64_t kFrames = 32;
  study.offline.frames = kFrames;
  CLI::App* command = app.add_subcommand(name, description);
  command->add_option("--checkpoint", study.offline.checkpoints, "policy to study")
      ->type_name("[LABEL=]DIR")
      ->required()
      ->expected(1);
  command->add_option("--layers", study.keep, "how many layers to keep")
      ->type_name("L")
      ->capture_default_str();
  command->add_flag("--json", study.json, "print the report as JSON instead of tables");
  add_data_options(*command, study.offline, demos);
  return command;
}

CLI::App* add_skip(CLI::App& app, LayerStudyOptions& study, DemoOptions& demos) {
  CLI::App* command =
      add_layer_study(app, study, demos, "skip", "what a policy's output loses without single layers");
  add_draws(*command, study.offline);
  add_enum_option(*command, "--rank-by", study.rank_by,
                  "velocity (against the whole policy) or action (error)")
      ->type_name("NAME");
  command->add_flag("!--no-greedy", study.greedy, "only the ranking by single layers: much faster");
  return command;
}

void finish_options(OfflineOptions& offline, const DemoOptions& demos, const CommonOptions& common) {
  offline.demos = choose_demos(demos.data, demos.held_out, demos.settings);
  offline.quiet = common.quiet;
  offline.measure.device = parse_device(common.device);
  offline.dtype = parse_dtype(common.dtype, offline.measure.device);
  offline.measure.seed = common.seed.value_or(offline.measure.seed);
}

}  // namespace

int main(int argc, char** argv) {
  CommonOptions common;
  DemoOptions demos;
  OfflineOptions of_offline;
  LayerStudyOptions of_similarity, of_skip;
  RolloutOptions of_rollout;
  CompareOptions of_compare;
  CLI::App app("Measures policies: success in the LIBERO simulator, or errors on demonstrations.",
               "shallowpi-eval");
  app.require_subcommand(1);
  CLI::App* offline = add_offline(app, of_offline, demos);
  CLI::App* similarity = add_layer_study(app, of_similarity, demos, "similarity",
                                         "cosine similarity of hidden states between layers");
  CLI::App* skip = add_skip(app, of_skip, demos);
  CLI::App* rollout = add_rollout(app, of_rollout);
  add_compare(app, of_compare, common);
  finish_commands(app, common, kExamples);
  return parse_and_run(app, argc, argv, common, [&] {
    if (rollout->parsed()) return run_rollout_command(of_rollout, common);
    if (offline->parsed()) {
      finish_options(of_offline, demos, common);
      run_offline(of_offline);
    } else if (similarity->parsed()) {
      finish_options(of_similarity.offline, demos, common);
      run_similarity(of_similarity);
    } else if (skip->parsed()) {
      finish_options(of_skip.offline, demos, common);
      run_skip(of_skip);
    } else {
      run_compare(of_compare);
    }
    return static_cast<int>(ExitCode::kDone);
  });
}
