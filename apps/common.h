// What the three programs' command lines have in common.
#pragma once

#include <unistd.h>

#include <CLI/CLI.hpp>
#include <filesystem>
#include <functional>
#include <string>

#include "shallowpi/base/cli.h"
#include "shallowpi/base/error.h"

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
  app.add_option("--seed", options.seed, "seed of all random draws")->type_name("N");
  app.add_option("--log-level", options.log_level, "debug, info, warning, error or off")->type_name("LEVEL");
  app.add_flag("--quiet", options.quiet, "no progress, only warnings and errors");
}

/// Parses the command line, applies the common options and runs `body`; returns the exit code. Help and
/// version go to stdout; a command line that does not parse ends with exit code 2.
inline int parse_and_run(CLI::App& app, int argc, char** argv, const CommonOptions& options,
                         const std::function<int()>& body) {
  return run_main([&] {
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
