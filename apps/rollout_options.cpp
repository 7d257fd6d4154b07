#include "rollout_options.h"

#include <ATen/Parallel.h>

namespace shallowpi {
namespace {

constexpr const char* kRolloutNotes = R"(
A policy without a network, for --policy:
  noop                      stands still
  replay:FILE.hdf5[#K]      replays demonstration K (0 by default; #trial: another one per trial) whatever it sees
  mean-action:FILE.hdf5     always the mean action
FILE may be a glob; each task uses the file with its instruction.

An interrupted run goes on with the same command; --trials, --tasks and --suite may grow.
The simulator is installed by scripts/setup_libero.sh; docs/eval.md explains everything.)";

void add_what(CLI::App& app, RolloutOptions& options) {
  CLI::Option* checkpoint =
      app.add_option("--checkpoint", options.checkpoint, "policy to run")->type_name("DIR");
  CLI::Option* server =
      app.add_option("--server", options.server, "or a server that speaks openpi's websocket protocol")
          ->type_name("ws://HOST:PORT");
  app.add_option("--api-key-file", options.api_key_file, "file with the key that the server wants")
      ->type_name("FILE")
      ->needs(server);
  app.add_option("--policy", options.policy, "or a policy without a network (see below)")->type_name("NAME");
  // A server has its own.
  add_steps(app, options.network.steps, "Euler steps of the checkpoint")->needs(checkpoint);
  add_noise_scale(app, options.network.noise_scale)->needs(checkpoint);
  add_horizon(app, options.network.horizon)->needs(checkpoint);
  add_tokenizer(app, options.network.tokenizer, "where the checkpoint has none")->needs(checkpoint);
  app.add_option("--suite", options.suites, "libero_spatial, _object, _goal, _10, _90; several with commas")
      ->delimiter(',')
      ->type_name("NAME")
      ->required();
  app.add_option("--tasks", options.tasks, "task numbers, as in 0,3; default: all")
      ->delimiter(',')
      ->type_name("LIST");
  app.add_option("--trials", options.trials,
                 "episodes per task (openpi 50, LeRobot 10); trial i starts from initial state i")
      ->type_name("N");
  app.add_option("--out", options.out, "folder for results.json, report.html, videos and logs")
      ->type_name("DIR")
      ->required();
}

void add_protocol(CLI::App& app, RolloutOptions& options) {
  app.add_option("--max-steps", options.max_steps, "control steps per episode; default: the protocol's")
      ->type_name("N");
  app.add_option("--settle", options.settle, "steps of standing still before the policy starts")
      ->type_name("N");
  app.add_option("--replan", options.replan, "actions executed per chunk (openpi 5, LeRobot 10)")
      ->type_name("N");
  app.add_option("--image-size", options.image_size,
                 "pixels that the simulator renders; default: as in the policy's demonstrations, where it "
                 "says so, else the protocol's (openpi 256, LeRobot 360)")
      ->type_name("N");
  app.add_option(
         "--perturb", options.perturb,
         "displace an object at the start: NAME_xy=, _x= or _y= metres (uniform within +-), _r= metres "
         "(exactly that far); NAME: target, goal or an object; may be repeated")
      ->type_name("NAME_xy=M")
      ->allow_extra_args(false);
  app.add_option("--move", options.move,
                 "move an object during the episode, m/s, optionally in a direction; may be repeated")
      ->type_name("NAME=V[@DEG]")
      ->allow_extra_args(false);
  app.add_option("--latency-ms", options.latency_ms, "actions arrive this late while the world goes on")
      ->type_name("X");
  app.add_option("--latency-from", options.latency_from,
                 "the latency that shallowpi-infer bench --json measured")
      ->type_name("FILE.json");
}

void add_how(CLI::App& app, RolloutOptions& options) {
  app.add_option("--workers", options.workers, "simulators at once; without --threads they share the cores")
      ->type_name("N")
      ->capture_default_str();
  app.add_option("--batch", options.batch, "observations per forward pass, at most")
      ->type_name("N")
      ->capture_default_str();
  app.add_option("--video", options.videos, "record the first N trials of each task as MP4")->type_name("N");
  app.add_option("--video-trials", options.video_trials, "record these trials of each task, as in 5,7")
      ->delimiter(',')
      ->type_name("LIST");
  app.add_option("--python", options.python,
                 "of a LIBERO installation; default: that of scripts/setup_libero.sh")
      ->type_name("FILE");
  app.add_option("--worker", options.worker, "another simulator process than libero_worker.py")
      ->type_name("FILE.py");
  app.add_option("--timeout", options.step_timeout_s,
                 "seconds after which a simulator counts as hung, and a server as gone")
      ->type_name("S")
      ->capture_default_str();
}

}  // namespace

CLI::App* add_rollout(CLI::App& app, RolloutOptions& options) {
  CLI::App* rollout = app.add_subcommand("rollout", "success of a policy in the LIBERO simulator");
  add_what(*rollout, options);
  add_enum_option(*rollout, "--protocol", options.protocol,
                  "openpi or lerobot: trials, limits, rendering, replanning, seed")
      ->type_name("NAME");
  add_protocol(*rollout, options);
  add_enum_option(
      *rollout, "--chunking", options.chunking,
      "receding, ensemble (overlapping chunks are blended) or rtc (each chunk continues the one before)")
      ->type_name("MODE");
  add_how(*rollout, options);
  rollout
      ->add_option_function<std::string>(
          "--render", [&options](const std::string& when) { options.always_render = when == "always"; },
          "on-demand, or always (the same images, slower)")
      ->type_name("WHEN")
      ->check(CLI::IsMember({"on-demand", "always"}))
      ->default_str("on-demand");
  rollout->footer(kRolloutNotes);
  return rollout;
}

int run_rollout_command(RolloutOptions& options, const CommonOptions& common) {
  if (!common.threads && options.workers > 1)
    at::set_num_threads(static_cast<int>(std::max<std::int64_t>(1, at::get_num_threads() / options.workers)));
  options.quiet = common.quiet;
  options.seed = common.seed;
  options.network.device = parse_device(common.device);
  options.network.dtype = parse_dtype(common.dtype, options.network.device);
  options.reset_timeout_s = std::max(options.reset_timeout_s, options.step_timeout_s);
  return run_rollout(options);
}

CLI::App* add_compare(CLI::App& app, CompareOptions& options, CommonOptions& common) {
  CLI::App* compare = app.add_subcommand("compare", "tabulate rollouts; paired tests against the first");
  compare->add_option("runs", options.runs, "their --out folders, or copies of results.json")
      ->type_name("[LABEL=]DIR")
      ->required();
  compare->add_option("--within", options.within, "count only what succeeded within so many control steps")
      ->type_name("N");
  compare->add_option("--video", options.video, "write the recorded episodes side by side into this folder")
      ->type_name("DIR");
  compare->add_option("--out", options.out, "write the comparison as JSON")
      ->type_name("FILE.json")
      ->check(kOutputFile);
  add_log_options(*compare, common);
  return compare;
}

}  // namespace shallowpi
