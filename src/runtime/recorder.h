// Keeps what robots sent and what they were answered (`shallowpi-infer serve --record`), for shallowpi-eval
// and shallowpi-distill (shallowpi/data/recording.h).
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "shallowpi/base/background_task.h"
#include "shallowpi/data/recording.h"

namespace shallowpi {

/// Collects answers and writes them file by file (at most 64 answers, 64 MiB or 30 seconds each) on a thread
/// of its own: a robot never waits for the disk. One that is too slow loses answers, and one with less than 1
/// GiB left ends the recording, both with a warning. Not thread-safe.
class Recorder {
 public:
  /// `control_hz`: of the actions; 0: not known. Throws IoError where `folder` cannot be made.
  Recorder(std::filesystem::path folder, double control_hz);
  /// Writes the rest.
  ~Recorder();

  void add(RobotObservation observation, const RobotActions& actions);

 private:
  std::filesystem::path next_path();
  void start_writing();

  const std::filesystem::path folder_;
  const double control_hz_;
  const std::string run_;  // begins the files' names: when it started, and the process
  std::vector<RecordedAnswer> answers_;
  std::size_t bytes_ = 0;  // of their images
  std::size_t files_ = 0;
  bool ended_ = false;
  BackgroundTask writing_;
};

}  // namespace shallowpi
