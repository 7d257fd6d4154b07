// Keeps what robots sent and what they were answered (`shallowpi-infer serve --record`), for shallowpi-eval
// and shallowpi-distill (shallowpi/data/recording.h).
#pragma once

#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <filesystem>
#include <map>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "shallowpi/data/recording.h"

namespace shallowpi {

/// Of the disk, in bytes: others need it too.
inline constexpr std::uintmax_t kLeastFree = std::uintmax_t{1} << 30;

/// Makes the folder where there is none, and removes what killed servers left half written. Throws IoError
/// where it cannot be written to, or less than `least_free` bytes of its disk are free.
void prepare_recording_folder(const std::filesystem::path& folder, std::uintmax_t least_free = kLeastFree);

struct RecorderOptions {
  std::size_t max_answers = 64, max_bytes = std::size_t{64} << 20;  ///< that end a file, bytes of images
  double max_seconds = 30;      ///< after which an answer is written, whether its file is full or not
  std::size_t max_waiting = 4;  ///< full files that may wait for the disk; more are lost
  std::uintmax_t least_free = kLeastFree;
};

/// Collects answers and writes them file by file, those of observations with other cameras to other files, on
/// a thread of its own: a robot never waits for the disk. A disk that is too slow loses answers, and one that
/// fails ends the recording, both with a warning.
class Recorder {
 public:
  /// In a folder that prepare_recording_folder() accepted. `control_hz`: of the actions; 0: not known.
  Recorder(std::filesystem::path folder, double control_hz, RecorderOptions options = {});
  /// Writes the rest.
  ~Recorder();

  /// From one thread.
  void add(RobotObservation observation, const RobotActions& actions);

 private:
  struct Batch {
    std::vector<RecordedAnswer> answers;
    std::size_t bytes = 0;
  };
  void work();
  void finish_old();
  void finish(Batch& batch);
  void write(const std::vector<RecordedAnswer>& answers);

  const std::filesystem::path folder_;
  const double control_hz_;
  const RecorderOptions options_;
  const std::string run_;  // begins the files' names
  std::mutex mutex_;
  std::condition_variable changed_;
  std::map<std::string, Batch> collected_;  // by the cameras' names
  std::deque<Batch> waiting_;               // to be written
  bool ending_ = false, failed_ = false;
  std::size_t files_ = 0;  // of the thread
  std::thread thread_;     // last: it uses the members above
};

}  // namespace shallowpi
