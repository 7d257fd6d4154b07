// What a person sees of a run on stderr: one line that is redrawn on a terminal, log lines otherwise.
#pragma once

#include <chrono>
#include <cstdint>
#include <string>

#include "distill/metrics.h"
#include "shallowpi/base/status_line.h"

namespace shallowpi {

/// Where the time of the steps since the last line went.
struct StepTiming {
  double samples_per_second = 0;
  double wait_share = 0;  ///< of the time, spent waiting for the loader
  double seconds_left = 0;
  std::uint64_t memory_bytes = 0;  ///< at the peak: resident on the host, or allocated on the GPU
};

class Progress {
 public:
  /// `quiet`: only warnings and errors are shown. Redraws where stderr is a terminal.
  Progress(std::int64_t steps, bool quiet);

  /// `values` are shown in their order.
  void show(std::int64_t step, const Scalars& values, const StepTiming& timing);

 private:
  std::int64_t steps_;
  bool quiet_;
  StatusLine status_;
};

/// The text of one line: "step 120/3000  loss 0.1234  loss_task ...  64.1 samples/s  data wait 3 %  1.2 GiB
/// left 12 min".
std::string progress_line(std::int64_t step, std::int64_t steps, const Scalars& values,
                          const StepTiming& timing);

/// "[=====     ] " with `done` of `total` filled.
std::string progress_bar(std::int64_t done, std::int64_t total);

}  // namespace shallowpi
