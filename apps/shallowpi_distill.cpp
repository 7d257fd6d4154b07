// Trains a pi0 / pi0.5 policy, distils one into a shallow student, exports checkpoints.
#include <iostream>

#include "common.h"
#include "shallowpi/base/enum_names.h"
#include "shallowpi/base/log.h"
#include "shallowpi/base/text.h"
#include "shallowpi/distill/config.h"
#include "shallowpi/distill/run.h"
#include "shallowpi/model/checkpoint.h"

using namespace shallowpi;

namespace {

constexpr const char* kExamples = R"(Examples:
  shallowpi-distill --config configs/quickstart.yaml
  shallowpi-distill --config configs/pi05_libero_l6.yaml teacher.checkpoint=checkpoints/pi05_libero --dry-run
  shallowpi-distill --config configs/pi05_libero_l6.yaml student.layers=4 --init-only students/untrained_l4
  shallowpi-distill export --checkpoint runs/l6/last --to lerobot exported/l6

The settings of a configuration, as --config FILE and key=value take them:
)";

struct Options {
  CommonOptions common;
  std::string config, init_only, dump;
  std::vector<std::string> overrides;
  bool dry_run = false;
  std::string resume = "auto";
  std::string checkpoint, to, out;
  std::optional<std::int64_t> horizon;
};

// Options that are settings too win over both the file and key=value.
std::vector<std::string> all_overrides(const Options& options) {
  std::vector<std::string> all = options.overrides;
  if (!options.common.device.empty()) all.push_back("device=" + options.common.device);
  if (!options.common.dtype.empty()) all.push_back("dtype=" + options.common.dtype);
  if (options.common.threads) all.push_back(str("threads=", *options.common.threads));
  if (options.common.seed) all.push_back(str("seed=", *options.common.seed));
  return all;
}

int distill(const Options& options) {
  if (options.dump == "markdown" || options.dump == "keys") {
    std::cout << (options.dump == "markdown" ? config_markdown() : join(config_keys(), "\n") + "\n");
    return 0;
  }
  if (!options.dump.empty() && options.dump != "yaml")
    throw UsageError(str("--dump-config=", options.dump, " is not yaml, markdown or keys"));
  for (const std::string& text : options.overrides)
    if (options.config.empty() && text.find('=') == std::string::npos)
      throw UsageError(str("'", text, "' is not key=value; did you mean --config ", text, "?"));
  if (options.config.empty() && options.dump.empty() && options.init_only.empty())
    throw UsageError("no --config FILE; configs/ has examples, and --help explains");
  const ConfigUse use = !options.dump.empty()        ? ConfigUse::kAny
                        : !options.init_only.empty() ? ConfigUse::kInitOnly
                                                     : ConfigUse::kTrain;
  const ResolvedConfig resolved = load_distill_config(options.config, all_overrides(options), use);
  if (!options.dump.empty()) {
    std::cout << dump_config(resolved);
    return 0;
  }
  if (!options.init_only.empty()) {
    if (options.dry_run) throw UsageError("--init-only writes a folder and --dry-run nothing: leave one out");
    run_init_only(resolved, options.init_only);
    log::info("wrote ", options.init_only);
    return 0;
  }
  const auto names_output = [](const std::string& text) { return text.starts_with("output_dir="); };
  if (std::none_of(options.overrides.begin(), options.overrides.end(), names_output))
    check_place_of_run(options.config, resolved.config.output_dir);
  return run_distill(resolved, {options.dry_run, options.resume, options.common.quiet});
}

}  // namespace

int main(int argc, char** argv) {
  Options options;
  CLI::App app("Trains a pi0 or pi0.5 robot policy, or distils one into a student with fewer layers.",
               "shallowpi-distill");
  app.add_option("--config", options.config, "configuration in YAML (docs/config.md)")->type_name("FILE");
  app.add_option("overrides", options.overrides, "settings that win over the file, as in train.steps=100")
      ->type_name("key=value");
  app.add_flag("--dry-run", options.dry_run, "print the plan of the run and what it costs; write nothing");
  app.add_flag("--dump-config{yaml}", options.dump,
               "print the resolved configuration; =markdown: docs/config.md; =keys: all keys");
  app.add_option("--init-only", options.init_only, "write the untrained student to a new folder")
      ->type_name("OUT");
  app.add_option("--resume", options.resume,
                 "auto: go on with the run in output_dir; never; or a folder to start from")
      ->type_name("auto|never|DIR");
  add_common_options(app, options.common);
  app.get_option("--device")
      ->description("auto (a GPU where there is one), cpu, cuda:N, cuda:all, or several with commas");

  CLI::App* exporter =
      app.add_subcommand("export", "write a checkpoint as a folder that openpi or LeRobot loads");
  exporter->add_option("--checkpoint", options.checkpoint, "our, openpi's or LeRobot's folder")
      ->type_name("DIR")
      ->required();
  exporter->add_option("--to", options.to, "openpi or lerobot")
      ->type_name("FORMAT")
      ->required()
      ->check(CLI::IsMember({"openpi", "lerobot"}));
  add_horizon(*exporter, options.horizon);
  exporter->add_option("out", options.out, "new folder")->type_name("OUT")->required();
  add_log_options(*exporter, options.common);
  finish_commands(app, options.common, kExamples + config_help());

  return parse_and_run(app, argc, argv, options.common, [&] {
    if (!exporter->parsed()) return distill(options);
    export_checkpoint(options.checkpoint,
                      options.to == "openpi" ? CheckpointFormat::kOpenpi : CheckpointFormat::kLeRobot,
                      options.out, options.horizon);
    log::info("wrote ", options.out);
    return 0;
  });
}
