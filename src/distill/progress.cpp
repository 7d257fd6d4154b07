#include "shallowpi/distill/progress.h"

#include <unistd.h>

#include <iomanip>
#include <iostream>
#include <sstream>

#include "shallowpi/base/log.h"
#include "shallowpi/base/text.h"

namespace shallowpi {
namespace {

std::string bar(std::int64_t step, std::int64_t steps) {
  constexpr std::int64_t kWidth = 20;
  const std::int64_t done = steps > 0 ? step * kWidth / steps : kWidth;
  return str("[", std::string(static_cast<std::size_t>(done), '='),
             std::string(static_cast<std::size_t>(kWidth - done), ' '), "] ");
}

}  // namespace

Progress::Progress(std::int64_t steps, bool quiet)
    : steps_(steps), quiet_(quiet), terminal_(isatty(STDERR_FILENO)) {}

Progress::~Progress() {
  if (terminal_ && !quiet_) std::cerr << "\n";
}

void Progress::show(std::int64_t step, const Scalars& values, const StepTiming& timing) {
  if (quiet_) return;
  const std::string line = progress_line(step, steps_, values, timing);
  if (terminal_) {
    constexpr const char* kEraseLine = "\r\033[K";
    std::cerr << kEraseLine << bar(step, steps_) << line << std::flush;
  } else {
    log::info(line);
  }
}

std::string progress_line(std::int64_t step, std::int64_t steps, const Scalars& values,
                          const StepTiming& timing) {
  std::ostringstream line;
  line << "step " << step << "/" << steps;
  for (const auto& [name, value] : values) line << "  " << name << " " << std::setprecision(4) << value;
  line << "  " << fixed(timing.samples_per_second, 1) << " samples/s  data wait "
       << fixed(100 * timing.wait_share, 0) << " %  " << human_bytes(timing.memory_bytes) << "  left "
       << human_duration(timing.seconds_left);
  return std::move(line).str();
}

}  // namespace shallowpi
