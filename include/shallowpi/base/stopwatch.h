// Wall-clock time since a moment.
#pragma once

#include <chrono>

namespace shallowpi {

/// Runs from its construction.
class Stopwatch {
 public:
  double seconds() const {
    return std::chrono::duration<double>(std::chrono::steady_clock::now() - start_).count();
  }
  double milliseconds() const { return 1e3 * seconds(); }
  /// Seconds since the start or the last lap.
  double lap() {
    const double elapsed = seconds();
    *this = {};
    return elapsed;
  }

 private:
  std::chrono::steady_clock::time_point start_ = std::chrono::steady_clock::now();
};

}  // namespace shallowpi
