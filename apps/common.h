// What the three programs' command lines have in common.
#pragma once

#include <unistd.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cctype>
#include <filesystem>
#include <functional>
#include <optional>
#include <set>
#include <string>
#include <type_traits>
#include <vector>

#include "shallowpi/base/cli.h"
#include "shallowpi/base/enum_names.h"
#include "shallowpi/base/error.h"
#include "shallowpi/base/policy_spec.h"
#include "shallowpi/base/text.h"

namespace shallowpi {

/// A file to be written: said to be impossible at once, and not after the work.
inline const CLI::Validator kOutputFile(
    [](std::string& name) -> std::string {
      const std::filesystem::path path(name), folder = std::filesystem::absolute(path).parent_path();
      std::error_code ignored;
      const std::filesystem::file_status status = std::filesystem::status(path, ignored);
      if (std::filesystem::is_directory(status)) return name + " is a folder, not a file to write";
      const bool is_descriptor = name.starts_with("/dev/") || name.starts_with("/proc/");  // as /dev/stdout
      if (std::filesystem::exists(status) && (is_descriptor || !std::filesystem::is_regular_file(status)))
        return ::access(path.c_str(), W_OK) == 0 ? std::string() : name + " cannot be written to";
      if (!std::filesystem::is_directory(folder, ignored))
        return name + ": there is no folder " + folder.string();
      if (::access(folder.c_str(), W_OK) != 0) return name + ": " + folder.string() + " cannot be written to";
      return {};
    },
    "");

/// A number from `low` to `high`. CLI::Range would say of what is no number that it is out of range.
template <typename T>
CLI::Validator within(T low, T high) {
  return CLI::Validator(
      [low, high](std::string& text) -> std::string {
        T value{};
        if (!CLI::detail::lexical_cast(text, value))
          return str(in_quotes(text), " is not a ", std::is_integral_v<T> ? "whole " : "", "number");
        if (value >= low && value <= high) return {};
        return str("Value ", text, " not in range ", low, " to ", high);
      },
      str(CLI::detail::type_name<T>(), " in [", low, " - ", high, "]"));
}

/// 010 is ten: CLI11 would take it for an octal number.
inline const CLI::Validator kDecimal(
    [](std::string& text) -> std::string {
      const std::size_t digits = text.find_first_of("0123456789"), end = text.find_first_not_of('0', digits);
      if (digits <= 1 && end != digits && end != std::string::npos && std::isdigit(text[end]) != 0)
        text.erase(digits, end - digits);
      return {};
    },
    "");

/// Makes all options of numbers, and of lists of them, take kDecimal.
inline void read_decimals(CLI::App& app) {
  static const std::set<std::string> kNumbers{"N", "H", "HZ", "K", "L", "LIST", "M", "MS", "R", "S", "X"};
  for (CLI::Option* option : app.get_options()) {
    const std::string type = option->get_type_name();
    if (kNumbers.count(type.substr(0, type.find(':'))) != 0) option->transform(kDecimal);
  }
  for (CLI::App* command : app.get_subcommands({})) read_decimals(*command);
}

/// What every command takes, and all of a command that computes nothing.
inline void add_log_options(CLI::App& app, CommonOptions& options) {
  app.add_option("--log-level", options.log_level, "debug, info, warning, error or off")->type_name("LEVEL");
  app.add_flag("--quiet", options.quiet, "no progress, only warnings and errors");
  app.set_version_flag("--version", version_text);
}

/// What every command that computes takes.
inline void add_common_options(CLI::App& app, CommonOptions& options) {
  app.add_option("--device", options.device, "auto (a GPU where there is one), cpu or cuda:N")
      ->type_name("DEVICE");
  app.add_option("--dtype", options.dtype, "auto (bfloat16 on a GPU, float32 on a CPU), float32 or bfloat16")
      ->type_name("DTYPE");
  app.add_option("--threads", options.threads, "CPU threads; 0 (default): all cores")->type_name("N");
  // CLI11 would take -1 for a huge number.
  app.add_option("--seed", options.seed, "seed of all random draws")
      ->type_name("N")
      ->check(CLI::Validator(
          [](std::string& text) { return std::string(text.starts_with('-') ? "must not be negative" : ""); },
          ""));
  add_log_options(app, options);
}

/// An option that takes one of E's names: its message lists the valid ones.
template <typename E>
CLI::Option* add_enum_option(CLI::App& app, const std::string& name, E& value, const std::string& help) {
  return app
      .add_option_function<std::string>(
          name, [&value, name](const std::string& given) { value = parse_enum<E>(given, name); }, help)
      ->default_str(std::string(enum_name(value)));
}

inline CLI::Option* add_checkpoint(CLI::App& app, std::filesystem::path& value) {
  return app.add_option("--checkpoint", value, "our, openpi's or LeRobot's folder")
      ->type_name("DIR")
      ->required();
}

inline CLI::Option* add_steps(CLI::App& app, std::int64_t& value, const std::string& help = "Euler steps") {
  return app.add_option("--steps", value, help)
      ->type_name("N")
      ->check(within<std::int64_t>(1, kMaxEulerSteps))
      ->capture_default_str();
}

inline CLI::Option* add_noise_scale(CLI::App& app, double& value) {
  return app
      .add_option("--noise-scale", value,
                  "times the noise that a chunk starts from; 0 gives the steadiest chunks")
      ->type_name("S")
      ->check(within(0.0, kMaxNoiseScale))
      ->capture_default_str();
}

inline CLI::Option* add_horizon(CLI::App& app, std::optional<std::int64_t>& value,
                                const std::string& help = "action steps; default: what the checkpoint says") {
  return app.add_option("--horizon", value, help)
      ->type_name("H")
      ->check(within<std::int64_t>(1, kMaxHorizon));
}

inline CLI::Option* add_tokenizer(
    CLI::App& app, std::string& value,
    const std::string& help = "tokenizer.model instead of the checkpoint's own, or where it has none") {
  return app.add_option("--tokenizer", value, help)->type_name("FILE");
}

/// The demonstrations to measure on: what choose_demos() takes.
struct DemoOptions {
  std::vector<std::string> data;
  std::string held_out;
  std::vector<std::string> settings;
};

inline void add_demo_options(CLI::App& app, DemoOptions& options) {
  app.add_option("--data", options.data, "demonstrations in HDF5, or recordings of a server (globs)")
      ->type_name("FILE...");
  app.add_option("--held-out", options.held_out,
                 "only the episodes that a run with this configuration held out, with its data settings")
      ->type_name("CONFIG");
  app.add_option("--set", options.settings, "a data setting, as in data.alignment=aligned; may be repeated")
      ->type_name("key=value")
      ->allow_extra_args(false);
}

/// Gives every subcommand the common options, unless it has those of the log, and examples. The help of a
/// program ends with `examples` ("Examples:", then one command per line), that of a subcommand with its own,
/// and the lines that continue them.
inline void finish_commands(CLI::App& app, CommonOptions& options, const std::string& examples) {
  app.footer(examples);
  for (CLI::App* command : app.get_subcommands({})) {
    if (command->get_option_no_throw("--log-level") == nullptr) add_common_options(*command, options);
    std::string own;
    bool is_own = false, goes_on = false;
    for (const std::string& line : split(examples, '\n')) {
      if (!goes_on) is_own = line.starts_with("  " + app.get_name() + " " + command->get_name() + " ");
      if (is_own) own += "\n" + line;
      goes_on = line.ends_with('\\');
    }
    if (command->get_footer().empty() && !own.empty()) command->footer("Examples:" + own);
  }
}

/// Names a misspelt subcommand, where CLI11 would only say that one is missing, or take it for an argument.
inline void check_subcommand(const CLI::App& app, int argc, char** argv) {
  if (argc < 2 || argv[1][0] == '-') return;
  std::vector<std::string> names;
  for (const CLI::App* command : app.get_subcommands([](const CLI::App*) { return true; }))
    names.push_back(command->get_name());
  if (std::find(names.begin(), names.end(), argv[1]) != names.end()) return;
  const std::string near = nearest(argv[1], names);
  if (app.get_require_subcommand_min() == 0 && near.empty()) return;
  throw UsageError(
      str("there is no command ", in_quotes(argv[1]),
          near.empty() ? str(": give one of ", join(names, ", ")) : str("; did you mean ", near, "?")));
}

/// Throws UsageError for an option that there is none of, with the one that was probably meant.
inline void check_options(const CLI::App& app) {
  std::vector<const CLI::App*> commands{&app};
  for (const CLI::App* command : app.get_subcommands()) commands.push_back(command);
  for (const CLI::App* command : commands) {
    std::vector<std::string> known;
    for (const CLI::Option* option : command->get_options())
      for (const std::string& name : option->get_lnames()) known.push_back("--" + name);
    for (const std::string& text : command->remaining()) {
      if (!text.starts_with("--") || text == "--") continue;
      const std::string given = text.substr(0, text.find('=')), near = nearest(given, known);
      for (const CLI::App* other : app.get_subcommands([](const CLI::App*) { return true; }))
        if (command == &app && other->get_option_no_throw(given) != nullptr)
          throw UsageError(
              str(given, " belongs behind the command: ", app.get_name(), " COMMAND ", given, " ..."));
      throw UsageError(
          str("there is no option ", given, near.empty() ? "" : str("; did you mean ", near, "?")));
    }
  }
}

/// Parses the command line, applies the common options and runs `body`; returns the exit code. Help and
/// version go to stdout; a command line that does not parse ends with exit code 2.
inline int parse_and_run(CLI::App& app, int argc, char** argv, const CommonOptions& options,
                         const std::function<int()>& body) {
  return run_main([&] {
    check_subcommand(app, argc, argv);
    try {
      read_decimals(app);
      app.set_version_flag("--version", version_text);  // also where only its commands take the others
      app.parse(argc, argv);
    } catch (const CLI::ParseError& error) {
      if (error.get_exit_code() == 0) return app.exit(error);  // prints the help or the version
      check_options(app);
      throw UsageError(str(error.what(), "\nRun with --help for more information."));
    }
    apply_common_options(options);
    return body();
  });
}

}  // namespace shallowpi
