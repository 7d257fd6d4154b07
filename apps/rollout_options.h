// The command lines of `shallowpi-eval rollout` and `compare`.
#pragma once

#include <string>
#include <vector>

#include "common.h"
#include "shallowpi/eval/rollout.h"

namespace shallowpi {

class RolloutCommand {
 public:
  RolloutCommand(CLI::App& app, CommonOptions& common);
  bool parsed() const { return command_->parsed(); }
  int run();

 private:
  CommonOptions& common_;
  CLI::App* command_;
  RolloutOptions options_;
};

class CompareCommand {
 public:
  explicit CompareCommand(CLI::App& app);
  void run() { run_compare(options_); }

 private:
  CompareOptions options_;
};

}  // namespace shallowpi
