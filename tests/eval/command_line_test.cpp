// The programs as a shell sees them: their options are a contract, so that adding one is a decision.
#include <gtest/gtest.h>
#include <sys/wait.h>

#include <array>
#include <cstdio>
#include <regex>
#include <set>

#include "shallowpi/base/files.h"
#include "shallowpi/distill/config.h"
#include "test_util.h"

namespace shallowpi {
namespace {

struct Outcome {
  int code = -1;
  std::string out, err;
};

// Runs a program of this build with arguments as a shell takes them.
Outcome run(const std::string& command) {
  testing::TempDir folder;
  const std::string line = str(SHALLOWPI_BIN_DIR, "/", command, " 2>", (folder / "err").string());
  FILE* pipe = ::popen(line.c_str(), "r");
  EXPECT_NE(pipe, nullptr);
  Outcome outcome;
  std::array<char, 4096> buffer;
  for (std::size_t n; (n = std::fread(buffer.data(), 1, buffer.size(), pipe)) > 0;)
    outcome.out.append(buffer.data(), n);
  const int status = ::pclose(pipe);
  outcome.code = WIFEXITED(status) ? WEXITSTATUS(status) : -1;
  outcome.err = read_file(folder / "err");
  return outcome;
}

// The options that --help lists: those at the start of a line, before the examples.
std::set<std::string> options_of(const std::string& command) {
  const Outcome help = run(command + " --help");
  EXPECT_EQ(help.code, 0) << help.err;
  EXPECT_EQ(help.err, "");
  std::set<std::string> options;
  const std::regex option(R"((^|\n)  (?:-\w,)?(--[a-z0-9-]+))");
  for (std::sregex_iterator match(help.out.begin(), help.out.end(), option), end; match != end; ++match)
    options.insert((*match)[2]);
  return options;
}

std::set<std::string> with_log(std::set<std::string> options) {
  options.merge(std::set<std::string>{"--help", "--log-level", "--quiet", "--version"});
  return options;
}

std::set<std::string> with_common(std::set<std::string> options) {
  options.merge(std::set<std::string>{"--device", "--dtype", "--threads", "--seed"});
  return with_log(std::move(options));
}

TEST(CommandLine, TheOptionsAreFrozen) {
  EXPECT_EQ(options_of("shallowpi-distill"),
            with_common({"--config", "--dry-run", "--dump-config", "--init-only", "--resume"}));
  EXPECT_EQ(options_of("shallowpi-distill export"), with_log({"--checkpoint", "--to", "--horizon"}));
  EXPECT_EQ(options_of("shallowpi-eval"), (std::set<std::string>{"--help", "--version"}));
  EXPECT_EQ(options_of("shallowpi-eval offline"),
            with_common({"--checkpoint", "--teacher", "--data", "--held-out", "--batch", "--frames",
                         "--skipped", "--steps", "--draws", "--batch-size", "--horizon", "--set", "--out",
                         "--per-frame", "--plot", "--noise-scale"}));
  EXPECT_EQ(options_of("shallowpi-eval similarity"),
            with_common({"--checkpoint", "--layers", "--json", "--data", "--held-out", "--frames", "--steps",
                         "--batch-size", "--horizon", "--set", "--out"}));
  EXPECT_EQ(
      options_of("shallowpi-eval skip"),
      with_common({"--checkpoint", "--layers", "--json", "--data", "--held-out", "--frames", "--steps",
                   "--batch-size", "--horizon", "--set", "--out", "--draws", "--rank-by", "--no-greedy"}));
  EXPECT_EQ(
      options_of("shallowpi-eval rollout"),
      with_common({"--checkpoint",   "--server",     "--policy",       "--suite",        "--tasks",
                   "--trials",       "--out",        "--protocol",     "--max-steps",    "--settle",
                   "--replan",       "--image-size", "--perturb",      "--move",         "--latency-ms",
                   "--latency-from", "--chunking",   "--workers",      "--batch",        "--steps",
                   "--horizon",      "--tokenizer",  "--video",        "--python",       "--worker",
                   "--timeout",      "--render",     "--api-key-file", "--video-trials", "--noise-scale"}));
  EXPECT_EQ(options_of("shallowpi-eval compare"), with_log({"--within", "--video", "--out"}));
  EXPECT_EQ(options_of("shallowpi-infer"), (std::set<std::string>{"--help", "--version"}));
  EXPECT_EQ(options_of("shallowpi-infer run"),
            with_common({"--checkpoint", "--input", "--output", "--steps", "--horizon", "--engine"}));
  EXPECT_EQ(options_of("shallowpi-infer gate"),
            with_common({"--checkpoint", "--data", "--held-out", "--set", "--frames", "--steps",
                         "--batch-size", "--horizon", "--engine", "--min-cosine", "--min-cosine-worst",
                         "--max-abs", "--max-abs-worst", "--max-l2", "--max-l2-worst", "--json"}));
  EXPECT_EQ(options_of("shallowpi-infer inspect"), with_log({"--json"}));
  EXPECT_EQ(options_of("shallowpi-infer serve"),
            with_common({"--checkpoint", "--host", "--port", "--api-key-file", "--insecure", "--record",
                         "--default-prompt", "--tokenizer", "--horizon", "--steps", "--max-queue",
                         "--max-batch", "--batch-window-ms", "--inference-timeout-s", "--max-age-ms",
                         "--max-connections", "--engine", "--noise-scale", "--key"}));
  EXPECT_EQ(options_of("shallowpi-infer bench"),
            with_common({"--checkpoint", "--random-weights", "--model", "--layers", "--size", "--cameras",
                         "--horizon", "--prompt-tokens", "--steps", "--batch", "--iterations", "--warmup",
                         "--sweep", "--engine", "--compare", "--no-kernels", "--json", "--trace"}));
  EXPECT_EQ(options_of("shallowpi-infer simulate-loop"),
            with_common({"--data", "--checkpoint", "--latency-ms", "--control-hz", "--execute", "--mode",
                         "--ensemble-decay", "--horizon", "--tokenizer", "--episodes", "--steps",
                         "--noise-scale", "--json"}));
}

TEST(CommandLine, TheVersionNamesTheLibraries) {
  for (const char* command :
       {"shallowpi-distill", "shallowpi-distill export", "shallowpi-eval", "shallowpi-eval rollout",
        "shallowpi-eval compare", "shallowpi-infer", "shallowpi-infer serve", "shallowpi-infer inspect"}) {
    const Outcome version = run(str(command, " --version"));
    EXPECT_EQ(version.code, 0) << command << version.err;
    EXPECT_TRUE(std::regex_search(
        version.out, std::regex(R"(^shallowpi \d+\.\d+\.\d+.*, LibTorch \d+\.\d+.*, (CPU|CUDA)\n)")))
        << version.out;
  }
}

TEST(CommandLine, BadUsageExitsWith2AndSaysWhy) {
  const std::vector<std::pair<std::string, std::string>> cases = {
      {"shallowpi-distill", "no --config FILE"},
      {"shallowpi-distill --init-only /tmp/none", "teacher.checkpoint"},
      {"shallowpi-distill --confg x.yaml", "error: there is no option --confg; did you mean --config?"},
      {"shallowpi-eval offline --chekpoint=a", "there is no option --chekpoint; did you mean --checkpoint?"},
      {"shallowpi-eval offline --checkpoint a --nothing-like-it", "there is no option --nothing-like-it\n"},
      {"shallowpi-infer --quiet serve",
       "--quiet belongs behind the command: shallowpi-infer COMMAND --quiet"},
      {"shallowpi-infer sevre --checkpoint x", "did you mean serve?"},
      {"shallowpi-distill exprot --checkpoint x", "there is no command \"exprot\"; did you mean export?"},
      {"shallowpi-infer serve --checkpoint a --port 99999",
       "error: --port: Value 99999 not in range 0 to 65535"},
      {"shallowpi-infer serve --checkpoint a --port abc", "error: --port: \"abc\" is not a whole number"},
      {"shallowpi-infer simulate-loop --data a --control-hz nan", "not in range 0.1 to 10000"},
      {"shallowpi-infer gate --checkpoint a --data b --dtype bfloat16 --max-abs nan",
       "--max-abs nan: must be 0"},
      {"shallowpi-distill --config /nowhere.yaml", "/nowhere.yaml: there is no such file"},
      {"shallowpi-distill --config /tmp", "/tmp is a folder; name a YAML file"},
      {"shallowpi-distill my.yaml", "did you mean --config my.yaml?"},
      {"shallowpi-distill --dump-config --seed -1", "--seed: must not be negative"},
      {"shallowpi-eval compare a b --seed 1", "there is no option --seed"},
      {"shallowpi-distill export --checkpoint a --to lerobot out --dtype bfloat16",
       "there is no option --dtype"},
      {"shallowpi-eval skip --checkpoint a --seed -1", "--seed: must not be negative"},
      {"shallowpi-distill --dump-config train.stepz=3", "did you mean train.steps?"},
      {"shallowpi-distill --dump-config --device tpu", "device: 'tpu' is not auto, cpu, cuda:N, several"},
      {"shallowpi-distill --dump-config=xml", "xml"},
      {"shallowpi-distill --dump-config --log-level loud", "'loud' is not one of debug"},
      {"shallowpi-distill --dump-config --threads -1", "-1 is not 0 (all cores) to 1024"},
      {str("shallowpi-distill --config ", SHALLOWPI_SOURCE_DIR,
           "/configs/pi05_libero_l6.yaml --init-only /tmp/none --dry-run"),
       "leave one out"},
      {"shallowpi-distill export --checkpoint a --to jax out", "jax"},
      {"shallowpi-distill export --checkpoint /nowhere --to openpi out --quiet --log-level error",
       "/nowhere"},
      {"shallowpi-eval", "subcommand"},
      {"shallowpi-eval ofline --checkpoint a", "there is no command \"ofline\"; did you mean offline?"},
      {"shallowpi-infer look", "give one of run, inspect"},
      {"shallowpi-eval offline", "error: --checkpoint is required\nRun with --help for more information."},
      {"shallowpi-eval offline --checkpoint /nowhere", "--data"},
      {"shallowpi-eval rollout", "--suite"},
      {"shallowpi-eval rollout --suite libero_object --out /tmp/none", "exactly one of --checkpoint"},
      {"shallowpi-eval rollout --suite libero_object --out /tmp/none --policy nap", "\"nap\" is none of"},
      {"shallowpi-eval rollout --suite libero_object --out /tmp/none --server ws://a --steps 5",
       "--steps requires --checkpoint"},
      {"shallowpi-eval rollout --suite libero_object --out /tmp/none --policy noop --api-key-file a",
       "--api-key-file requires --server"},
      {"shallowpi-eval rollout --suite libero_object --out /tmp/none --server ws://a --timeout 0",
       "--timeout 0: must be above 0"},
      {"shallowpi-eval offline --checkpoint a --data b --set loss.kd=0", "--set loss.kd=0: only data.*"},
      {"shallowpi-eval offline --checkpoint a --batch b --draws 2", "--batch excludes --draws"},
      {"shallowpi-eval compare a", "at least two runs"},
      {"shallowpi-infer run --checkpoint a", "--input"},
      {"shallowpi-infer bench --random-weights --size tiny --device cpu --engine graph", "needs a GPU"},
      {"shallowpi-infer bench --random-weights --engine graph --sweep vision-tokens=64",
       "give --engine eager"},
      {"shallowpi-infer bench --random-weights --size tiny --sweep layers=2 --sweep layers=3",
       "--sweep layers is given twice"},
      {"shallowpi-infer bench --random-weights --layers 4 --sweep layers=2",
       "--layers and --sweep layers contradict each other"},
      {str("shallowpi-infer bench --checkpoint ", SHALLOWPI_SOURCE_DIR,
           "/configs/quickstart/teacher --sweep layers=3,20"),
       "--sweep layers: 20 of 18 layers"},
      {"shallowpi-infer bench --random-weights --model pi1", "--model: 'pi1' is not one of pi0, pi05"},
      {"shallowpi-infer bench --random-weights --size huge", "--size: 'huge' is not one of full, tiny"},
      {"shallowpi-infer bench --random-weights --size tiny --engine fast",
       "'fast' is not one of auto, eager, graph"},
      {"shallowpi-infer bench --checkpoint a --layers 6", "--checkpoint excludes --layers"},
      {"shallowpi-infer bench --random-weights --json /nowhere/x.json", "there is no folder /nowhere"},
      {"shallowpi-eval skip --checkpoint a --data b --out /tmp", "/tmp is a folder, not a file to write"},
      {str("shallowpi-eval offline --checkpoint ", SHALLOWPI_SOURCE_DIR,
           "/configs/quickstart/teacher --data /tmp"),
       "/tmp: is a folder; name its files"},
      {"shallowpi-infer gate --checkpoint a", "--data"},
      {"shallowpi-infer gate --checkpoint a --data b --set loss.kd=0", "--set loss.kd=0: only data.*"},
      {"shallowpi-infer gate --checkpoint a --data b --device cpu", "give --dtype bfloat16"},
      {"shallowpi-infer inspect /nowhere", "/nowhere"},
      {"shallowpi-infer inspect", "folder"},
      {"shallowpi-infer simulate-loop", "--data"},
      {"shallowpi-infer simulate-loop --data /nowhere.hdf5", "/nowhere.hdf5"},
      {"shallowpi-infer simulate-loop --data a --latency-ms -1", "--latency-ms -1"},
      {"shallowpi-infer simulate-loop --data a --latency-ms 0,-1", "--latency-ms -1"},
      {"shallowpi-infer simulate-loop --data a --steps 1", "--steps requires --checkpoint"},
      {"shallowpi-infer simulate-loop --data a --execute 0", "--execute: Value 0 not in range 1 to 10000"},
      {"shallowpi-infer simulate-loop --data a --mode slow",
       "--mode: 'slow' is not one of all, ensemble, receding, rtc"},
      {"shallowpi-infer run --checkpoint a --horizon 10001", "not in range 1 to 10000"},
      {"shallowpi-eval skip --checkpoint a --data b --rank-by luck",
       "--rank-by: 'luck' is not one of velocity, action"},
      {"shallowpi-eval rollout --suite libero_object --out /tmp/none --protocol mine",
       "--protocol: 'mine' is not one of openpi, lerobot"},
      {"shallowpi-eval rollout --suite libero_object --out /tmp/none --chunking no",
       "--chunking: 'no' is not one of ensemble, receding, rtc"},
  };
  for (const auto& [command, reason] : cases) {
    const Outcome outcome = run(command);
    EXPECT_EQ(outcome.code, 2) << command << "\n" << outcome.err;
    EXPECT_EQ(outcome.out, "") << command;
    EXPECT_NE(outcome.err.find(reason), std::string::npos) << command << "\n" << outcome.err;
  }
}

TEST(CommandLine, HelpShowsWholeExamples) {
  const Outcome help = run("shallowpi-eval offline --help");
  EXPECT_NE(help.out.find("--teacher checkpoints/pi05_libero \\\n      --held-out runs/l6/config.yaml"),
            std::string::npos)
      << help.out;
  EXPECT_EQ(help.out.find("shallowpi-eval skip"), std::string::npos) << help.out;
  EXPECT_NE(run("shallowpi-infer inspect --help").out.find("The exit code does not"), std::string::npos);
}

TEST(CommandLine, DumpsWhatItWasGiven) {
  const Outcome markdown = run("shallowpi-distill --dump-config=markdown");
  EXPECT_EQ(markdown.out, config_markdown());
  const Outcome keys = run("shallowpi-distill --dump-config=keys");
  EXPECT_NE(keys.out.find("\ntrain.steps\n"), std::string::npos);
  const Outcome dump =
      run("shallowpi-distill --dump-config train.steps=77 --seed 010 --threads 3 --device cpu");
  EXPECT_EQ(dump.code, 0) << dump.err;
  testing::TempDir folder;
  testing::write_text(folder / "dump.yaml", dump.out);
  const DistillConfig config = load_distill_config(folder / "dump.yaml", {}, ConfigUse::kAny).config;
  EXPECT_EQ(config.train.steps, 77);
  EXPECT_EQ(config.seed, 10u) << "not octal";
  EXPECT_EQ(config.threads, 3);
  EXPECT_EQ(config.device, "cpu");
}

}  // namespace
}  // namespace shallowpi
