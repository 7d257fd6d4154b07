// SIGINT, SIGTERM, SIGUSR1 and SIGHUP (a terminal that is closed, unless nohup has it ignored) as a request
// to finish what is going on, save and exit.
#pragma once

#include <string>

namespace shallowpi {

/// Handles the signals while it lives; there is one at a time. A second SIGINT or SIGTERM ends the process at
/// once, with code 137: nothing is saved.
class StopSignal {
 public:
  /// `note` is what the user reads when the first signal arrives.
  explicit StopSignal(const std::string& note =
                          "finishing this step and saving; a second signal ends at once, without saving");
  ~StopSignal();
  StopSignal(const StopSignal&) = delete;
  StopSignal& operator=(const StopSignal&) = delete;

  /// Whether one has arrived.
  bool requested() const;
  /// 130 after SIGINT, else 143: schedulers warn with SIGTERM or SIGUSR1 (Slurm's --signal) before they kill,
  /// and the job has to be requeued after both.
  int exit_code() const;
};

}  // namespace shallowpi
