// The command lines of `shallowpi-eval rollout` and `compare`.
#pragma once

#include "common.h"
#include "shallowpi/eval/rollout.h"

namespace shallowpi {

CLI::App* add_rollout(CLI::App& app, RolloutOptions& options);
/// Returns the exit code.
int run_rollout_command(RolloutOptions& options, const CommonOptions& common);

CLI::App* add_compare(CLI::App& app, CompareOptions& options, CommonOptions& common);

}  // namespace shallowpi
