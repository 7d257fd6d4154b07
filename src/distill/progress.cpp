#include "distill/progress.h"

#include <iomanip>
#include <sstream>

#include "shallowpi/base/log.h"
#include "shallowpi/base/text.h"

namespace shallowpi {

Progress::Progress(std::int64_t steps, bool quiet) : steps_(steps), quiet_(quiet), status_(quiet) {}

void Progress::show(std::int64_t step, const Scalars& values, const StepTiming& timing) {
  if (quiet_) return;
  const std::string line = progress_line(step, steps_, values, timing);
  if (status_.shows()) {
    status_.show(progress_bar(step, steps_) + line);
  } else {
    log::info(line);
  }
}

std::string progress_line(std::int64_t step, std::int64_t steps, const Scalars& values,
                          const StepTiming& timing) {
  std::ostringstream line;
  // A terminal may be narrow: what is asked for most comes first.
  line << "step " << step << "/" << steps << "  left " << human_duration(timing.seconds_left) << "  "
       << fixed(timing.samples_per_second, 1) << " samples/s  data wait " << fixed(100 * timing.wait_share, 0)
       << " %";
  for (const auto& [name, value] : values) line << "  " << name << " " << std::setprecision(4) << value;
  line << "  " << human_bytes(timing.memory_bytes);
  return std::move(line).str();
}

std::string progress_bar(std::int64_t done, std::int64_t total) {
  constexpr std::int64_t kWidth = 20;
  const std::int64_t filled = total > 0 ? done * kWidth / total : kWidth;
  return str("[", std::string(static_cast<std::size_t>(filled), '='),
             std::string(static_cast<std::size_t>(kWidth - filled), ' '), "] ");
}

}  // namespace shallowpi
