// What the three programs' command lines have in common.
#pragma once

#include <unistd.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <filesystem>
#include <functional>
#include <string>
#include <vector>

#include "shallowpi/base/cli.h"
#include "shallowpi/base/error.h"
#include "shallowpi/base/text.h"

namespace shallowpi {

/// A file to be written: said to be impossible at once, and not after the work.
inline const CLI::Validator kOutputFile(
    [](std::string& name) -> std::string {
      const std::filesystem::path path(name), folder = std::filesystem::absolute(path).parent_path();
      std::error_code ignored;
      if (std::filesystem::is_directory(path, ignored)) return name + " is a folder, not a file to write";
      if (!std::filesystem::is_directory(folder, ignored))
        return name + ": there is no folder " + folder.string();
      if (::access(folder.c_str(), W_OK) != 0) return name + ": " + folder.string() + " cannot be written to";
      return {};
    },
    "");

/// Adds the options that every program and subcommand takes.
inline void add_common_options(CLI::App& app, CommonOptions& options) {
  app.add_option("--device", options.device, "auto (a GPU where there is one), cpu or cuda:N")
      ->type_name("DEVICE");
  app.add_option("--dtype", options.dtype, "auto (bfloat16 on a GPU, float32 on a CPU), float32 or bfloat16")
      ->type_name("DTYPE");
  app.add_option("--threads", options.threads, "CPU threads; 0: all cores")->type_name("N");
  // CLI11 would take -1 for a huge number.
  app.add_option("--seed", options.seed, "seed of all random draws")
      ->type_name("N")
      ->check(CLI::Validator(
          [](std::string& text) { return std::string(text.starts_with('-') ? "must not be negative" : ""); },
          ""));
  app.add_option("--log-level", options.log_level, "debug, info, warning, error or off")->type_name("LEVEL");
  app.add_flag("--quiet", options.quiet, "no progress, only warnings and errors");
}

/// The demonstrations to measure on: what choose_demos() takes.
struct DemoOptions {
  std::vector<std::string> data;
  std::string held_out;
  std::vector<std::string> settings;
};

inline void add_demo_options(CLI::App& app, DemoOptions& options) {
  app.add_option("--data", options.data, "demonstrations in HDF5 (globs)")->type_name("FILE...");
  app.add_option("--held-out", options.held_out,
                 "only the episodes that a run with this configuration held out, with its data settings")
      ->type_name("CONFIG");
  app.add_option("--set", options.settings, "a data setting, as in data.alignment=aligned; may be repeated")
      ->type_name("key=value")
      ->allow_extra_args(false);
}

/// The help of a program ends with `examples` ("Examples:", then one command per line), that of a subcommand
/// with its own.
inline void add_examples(CLI::App& app, const std::string& examples) {
  app.footer(examples);
  for (CLI::App* command : app.get_subcommands({})) {
    std::string own;
    for (const std::string& line : split(examples, '\n'))
      if (line.starts_with("  " + app.get_name() + " " + command->get_name() + " ")) own += "\n" + line;
    if (command->get_footer().empty() && !own.empty()) command->footer("Examples:" + own);
  }
}

/// Names a misspelt subcommand, where CLI11 would only say that one is missing.
inline void check_subcommand(const CLI::App& app, int argc, char** argv) {
  if (app.get_require_subcommand_min() == 0 || argc < 2 || argv[1][0] == '-') return;
  std::vector<std::string> names;
  for (const CLI::App* command : app.get_subcommands([](const CLI::App*) { return true; }))
    names.push_back(command->get_name());
  if (std::find(names.begin(), names.end(), argv[1]) != names.end()) return;
  const std::string near = nearest(argv[1], names);
  throw UsageError(
      str("there is no command ", in_quotes(argv[1]),
          near.empty() ? str(": give one of ", join(names, ", ")) : str("; did you mean ", near, "?")));
}

/// Parses the command line, applies the common options and runs `body`; returns the exit code. Help and
/// version go to stdout; a command line that does not parse ends with exit code 2.
inline int parse_and_run(CLI::App& app, int argc, char** argv, const CommonOptions& options,
                         const std::function<int()>& body) {
  return run_main([&] {
    check_subcommand(app, argc, argv);
    try {
      app.set_version_flag("--version", version_text());
      app.parse(argc, argv);
    } catch (const CLI::ParseError& error) {
      return app.exit(error) == 0 ? 0 : static_cast<int>(ExitCode::kUsage);
    }
    apply_common_options(options);
    return body();
  });
}

}  // namespace shallowpi
