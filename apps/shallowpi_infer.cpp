// Runs a policy once on a tensor file, serves one to robots, measures speed, inspects checkpoints.
#include "common.h"
#include "shallowpi/eval/gate.h"
#include "shallowpi/runtime/bench.h"
#include "shallowpi/runtime/inspect.h"
#include "shallowpi/runtime/run.h"
#include "shallowpi/runtime/serve.h"
#include "shallowpi/runtime/simulate_loop.h"

using namespace shallowpi;

namespace {

constexpr const char* kExamples = R"(Examples:
  shallowpi-infer run --checkpoint runs/l6/last --input observation.safetensors --output actions.safetensors
  shallowpi-infer inspect runs/l6/last
  shallowpi-infer serve --checkpoint runs/l6/last --port 8000
  shallowpi-infer simulate-loop --checkpoint runs/l6/last --data demos/*.hdf5 --latency-ms 364 110
  shallowpi-infer bench --checkpoint runs/l6/last
  shallowpi-infer gate --checkpoint runs/l6/last --data demos/*.hdf5 --dtype bfloat16
  shallowpi-infer bench --random-weights --model pi05 --sweep layers=4,6,9,18 --json speed.json
)";

constexpr const char* kInspectNotes = R"(
The last line says whether serve takes the folder. The exit code does not: it is 3 where files are damaged, 2 where the
folder is no checkpoint, and 0 whatever else is missing or looks wrong.

Example:
  shallowpi-infer inspect runs/l6/last)";

/// A whole number from `low` to `high`.
CLI::Option* add_number(CLI::App& command, const char* flag, auto& value, const char* help, std::int64_t low,
                        std::int64_t high) {
  return command.add_option(flag, value, help)->type_name("N")->check(within(low, high));
}

void add_engine(CLI::App& command, EngineKind& engine) {
  add_enum_option(command, "--engine", engine,
                  "auto (graph on a GPU, else eager), eager or graph: one CUDA graph per chunk")
      ->type_name("ENGINE")
      ->default_str("");
}

void add_run(CLI::App& app, RunOptions& options) {
  CLI::App* run = app.add_subcommand("run", "sample one action chunk for each observation of a tensor file");
  add_checkpoint(*run, options.checkpoint);
  run->add_option("--input", options.input, "tensors in.image_0, in.tokens, ... (docs/runtime.md)")
      ->type_name("FILE.safetensors")
      ->required();
  run->add_option("--output", options.output,
                  "file to write: out.sampled_actions, out.velocity, out.prefix_embeddings")
      ->type_name("FILE.safetensors")
      ->required();
  add_steps(*run, options.steps);
  add_horizon(*run, options.horizon);
  add_engine(*run, options.engine);
}

CLI::App* add_inspect(CLI::App& app, InspectOptions& options, CommonOptions& common) {
  CLI::App* inspect =
      app.add_subcommand("inspect", "say what a checkpoint is, what it lacks and what looks wrong");
  inspect->add_option("folder", options.folder, "checkpoint folder")->type_name("DIR")->required();
  inspect->add_flag("--json", options.json, "print JSON");
  add_log_options(*inspect, common);
  inspect->footer(kInspectNotes);
  return inspect;
}

CLI::App* add_serve(CLI::App& app, ServeOptions& options) {
  CLI::App* serve = app.add_subcommand("serve", "answer openpi's clients over websockets (docs/serve.md)");
  add_checkpoint(*serve, options.checkpoint);
  serve->add_option("--host", options.host, "address to listen on; others than 127.0.0.1 need a key")
      ->type_name("IP")
      ->capture_default_str();
  add_number(*serve, "--port", options.port, "0: any free one, printed on stdout", 0, 65535)
      ->capture_default_str();
  serve->add_option("--api-key-file", options.api_key_file, "file with the key that clients have to send")
      ->type_name("FILE");
  serve->add_flag("--insecure", options.insecure, "listen on another host without a key");
  serve
      ->add_option("--key", options.keys,
                   "where clients send a camera, or the state, if not as openpi's do; may be repeated")
      ->type_name("NAME=KEY")
      ->allow_extra_args(false);
  serve
      ->add_option("--record", options.record,
                   "save observations and answers here, as data for shallowpi-eval and shallowpi-distill")
      ->type_name("DIR");
  serve->add_option("--default-prompt", options.default_prompt, "where an observation brings none")
      ->type_name("TEXT");
  add_tokenizer(*serve, options.tokenizer);
  add_horizon(*serve, options.horizon);
  add_steps(*serve, options.steps, "Euler steps where a client asks for none");
  add_noise_scale(*serve, options.noise_scale);
  add_number(*serve, "--max-queue", options.max_queue, "observations that may wait; more are refused", 1,
             4096)
      ->capture_default_str();
  add_number(*serve, "--max-batch", options.max_batch, "observations inferred together", 1, 256)
      ->capture_default_str();
  add_number(*serve, "--batch-window-ms", options.batch_window_ms, "how long to wait for a full batch", 0,
             1000)
      ->capture_default_str();
  add_number(*serve, "--inference-timeout-s", options.inference_timeout_s,
             "/healthz answers 503 while an inference takes longer, for a supervisor to restart the server",
             1, 86400)
      ->capture_default_str();
  add_number(*serve, "--max-age-ms", options.max_age_ms, "refuse observations whose timestamp is older", 1,
             3600000);
  add_number(*serve, "--max-connections", options.max_connections, "websockets open at a time", 1, 4096)
      ->capture_default_str();
  add_engine(*serve, options.engine);
  return serve;
}

CLI::App* add_simulate_loop(CLI::App& app, SimulateLoopOptions& options) {
  CLI::App* loop = app.add_subcommand(
      "simulate-loop",
      "play the robot's control loop against demonstrations, with a given inference latency");
  loop->add_option("--data", options.data, "demonstrations (HDF5); one frame is one control tick")
      ->type_name("FILE")
      ->required();
  CLI::Option* checkpoint =
      loop->add_option("--checkpoint", options.checkpoint,
                       "our, openpi's or LeRobot's folder; without it the demonstration answers")
          ->type_name("DIR");
  loop->add_option("--latency-ms", options.latencies_ms,
                   "from an observation to its chunk; several: a row each")
      ->type_name("MS")
      ->delimiter(',')
      ->capture_default_str();
  loop->add_option("--control-hz", options.control_hz,
                   "ticks per second; default: the demonstrations', else 30")
      ->type_name("HZ")
      ->check(within(kMinControlHz, kMaxControlHz));
  loop->add_option("--execute", options.execute, "ticks from one request to the next")
      ->type_name("K")
      ->check(within<std::int64_t>(1, kMaxHorizon))
      ->capture_default_str();
  const std::vector<ChunkMode> all = options.modes;
  loop->add_option_function<std::string>(
          "--mode",
          [&options, all](const std::string& name) {
            const std::optional<ChunkMode> mode = find_enum<ChunkMode>(name);
            if (!mode && name != "all")
              throw UsageError(
                  str("--mode: '", name, "' is not one of all, ", join(enum_names<ChunkMode>(), ", ")));
            options.modes = mode ? std::vector{*mode} : all;
          },
          "all, ensemble, receding or rtc")
      ->type_name("MODE")
      ->default_str("all");
  loop->add_option("--ensemble-decay", options.ensemble_decay,
                   "ACT's m; below 0 the newest chunk weighs most")
      ->type_name("M")
      ->capture_default_str();
  add_horizon(*loop, options.horizon, "actions per chunk, where the checkpoint does not say it");
  add_tokenizer(*loop, options.tokenizer)->needs(checkpoint);
  loop->add_option("--episodes", options.episodes, "only the first N of each file; 0: all")
      ->type_name("N")
      ->capture_default_str();
  add_steps(*loop, options.steps)->needs(checkpoint);
  add_noise_scale(*loop, options.noise_scale)->needs(checkpoint);
  loop->add_option("--json", options.json, "also write the numbers here")
      ->type_name("FILE.json")
      ->check(kOutputFile);
  return loop;
}

struct BenchCommand {
  BenchOptions options;
  bool random_weights = false;
};

CLI::App* add_bench(CLI::App& app, BenchCommand& command) {
  BenchOptions& options = command.options;
  CLI::App* bench =
      app.add_subcommand("bench", "time each stage of a chunk, and compare with the device's limit");
  CLI::Option* checkpoint =
      bench->add_option("--checkpoint", options.checkpoint, "policy to measure")->type_name("DIR");
  bench
      ->add_flag("--random-weights", command.random_weights,
                 "measure random weights instead, of these sizes:")
      ->excludes(checkpoint);
  add_enum_option(*bench, "--model", options.model, "pi0 or pi05")->type_name("MODEL")->excludes(checkpoint);
  add_number(*bench, "--layers", options.layers, "layers of both stacks; default: 18", 1, 1000)
      ->excludes(checkpoint);
  add_enum_option(*bench, "--size", options.size, "full, or tiny to try the program")
      ->type_name("SIZE")
      ->excludes(checkpoint);
  const auto count = [&](const char* flag, auto& value, const char* help, std::int64_t least = 1) {
    add_number(*bench, flag, value, help, least, 1000000)->capture_default_str();
  };
  count("--cameras", options.cameras, "images per observation; default: the checkpoint's, else 2", 0);
  add_horizon(*bench, options.horizon, "actions per chunk; default: the checkpoint's, else 10");
  count("--prompt-tokens", options.prompt_tokens, "tokens of the prompt");
  add_steps(*bench, options.steps);
  count("--batch", options.batch, "observations per pass");
  count("--iterations", options.iterations, "chunks to time");
  count("--warmup", options.warmup, "chunks before that", 0);
  bench
      ->add_option("--sweep", options.sweeps,
                   "layers=4,6,9,18, or vision-tokens=64,128,256 (by the eager engine); may be repeated")
      ->type_name("AXIS=N,...")
      ->allow_extra_args(false);
  add_engine(*bench, options.engine);
  bench->add_flag("--compare", options.compare, "time the policy without the engine too");
  bench->add_flag("!--no-kernels", options.kernels,
                  "use LibTorch's operators alone, not this project's CUDA kernels");
  bench->add_option("--json", options.json, "write the result as JSON")
      ->type_name("FILE.json")
      ->check(kOutputFile);
  bench->add_option("--trace", options.trace, "write a timeline of one chunk for chrome://tracing")
      ->type_name("FILE.json")
      ->check(kOutputFile);
  return bench;
}

struct GateCommand {
  GateOptions options;
  DemoOptions demos;
};

CLI::App* add_gate(CLI::App& app, GateCommand& command) {
  GateOptions& options = command.options;
  CLI::App* gate = app.add_subcommand(
      "gate",
      "say whether a faster path (--dtype, --engine) may stand in for float32 eager: exit code 0 or 1");
  add_checkpoint(*gate, options.checkpoint);
  add_demo_options(*gate, command.demos);
  add_number(*gate, "--frames", options.frames, "compare on this many, evenly spread; 0: all", 0, 1000000)
      ->capture_default_str();
  add_steps(*gate, options.steps);
  add_number(*gate, "--batch-size", options.batch_size, "frames per forward pass", 1, 4096)
      ->capture_default_str();
  add_horizon(*gate, options.horizon);
  add_engine(*gate, options.engine);
  const auto limit = [&](const char* flag, double& value, const char* help) {
    gate->add_option(flag, value, help)->type_name("X")->capture_default_str();
  };
  GateLimits& limits = options.limits;
  limit("--min-cosine", limits.min_cosine_mean, "least cosine of a chunk's actions, mean over frames");
  limit("--min-cosine-worst", limits.min_cosine_worst, "of the worst frame");
  limit("--max-abs", limits.max_abs_mean, "largest difference of a normalised action, mean over frames");
  limit("--max-abs-worst", limits.max_abs_worst, "of the worst frame");
  limit("--max-l2", limits.max_l2_mean, "|difference| / |reference| of a chunk, mean over frames");
  limit("--max-l2-worst", limits.max_l2_worst, "of the worst frame");
  gate->add_option("--json", options.json, "also write the numbers here")
      ->type_name("FILE.json")
      ->check(kOutputFile);
  return gate;
}

int run_gate_command(GateCommand& command) {
  GateOptions& options = command.options;
  options.demos = choose_demos(command.demos.data, command.demos.held_out, command.demos.settings);
  if (options.demos.data.files.empty()) throw UsageError("gate needs --data FILE... or --held-out CONFIG");
  return run_gate(options);
}

void run_bench_command(const BenchCommand& command) {
  if (command.options.checkpoint.empty() && !command.random_weights)
    throw UsageError("bench needs --checkpoint DIR or --random-weights");
  run_bench(command.options);
}

}  // namespace

int main(int argc, char** argv) {
  CommonOptions common;
  RunOptions run_options;
  InspectOptions inspect_options;
  ServeOptions serve_options;
  SimulateLoopOptions loop_options;
  BenchCommand bench_command;
  GateCommand gate_command;
  CLI::App app("Runs and serves pi0 and pi0.5 policies, measures them and looks into their checkpoints.",
               "shallowpi-infer");
  app.require_subcommand(1);

  add_run(app, run_options);
  CLI::App* inspect = add_inspect(app, inspect_options, common);
  CLI::App* serve = add_serve(app, serve_options);
  CLI::App* loop = add_simulate_loop(app, loop_options);
  CLI::App* bench = add_bench(app, bench_command);
  CLI::App* gate = add_gate(app, gate_command);
  finish_commands(app, common, kExamples);

  const auto place = [&](auto& options) {
    options.device = parse_device(common.device);
    options.dtype = parse_dtype(common.dtype, options.device);
    options.seed = common.seed.value_or(options.seed);
  };
  return parse_and_run(app, argc, argv, common, [&] {
    if (inspect->parsed()) return run_inspect(inspect_options);
    if (serve->parsed()) {
      place(serve_options);
      return serve_policy(serve_options);
    }
    if (gate->parsed()) {
      place(gate_command.options);
      gate_command.options.quiet = common.quiet;
      return run_gate_command(gate_command);
    }
    if (loop->parsed()) {
      place(loop_options);
      loop_options.quiet = common.quiet;
      run_simulate_loop(loop_options);
    } else if (bench->parsed()) {
      place(bench_command.options);
      run_bench_command(bench_command);
    } else {
      place(run_options);
      run_policy_on_file(run_options);
    }
    return static_cast<int>(ExitCode::kDone);
  });
}
