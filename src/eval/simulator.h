// One simulator process (scripts/libero_worker.py) and its socket. Never blocks on an answer, so that one
// thread can drive many.
#pragma once

#include <sys/types.h>

#include <chrono>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "shallowpi/base/error.h"
#include "shallowpi/base/json.h"

namespace shallowpi {

/// The process died, hangs, or talks nonsense: start it anew.
class SimulatorFault : public Error {
 public:
  using Error::Error;
};

struct SimulatorAnswer {
  Json json;
  std::string payload;
};

class Simulator {
 public:
  using Clock = std::chrono::steady_clock;

  /// `log` gets what the process prints. Nothing is started yet.
  Simulator(std::string python, std::filesystem::path script, std::filesystem::path log);
  ~Simulator();
  Simulator(const Simulator&) = delete;
  Simulator& operator=(const Simulator&) = delete;

  /// Sends a request, starting the process where none runs; the answer has to be there within `timeout_s`.
  void send(const Json& request, double timeout_s);
  /// The answer, once it is there whole. Throws SimulatorFault; for an error that the simulator reports,
  /// UsageError where the request or the machine is at fault.
  std::optional<SimulatorAnswer> receive();
  /// Waits for it.
  SimulatorAnswer wait();
  void kill();

  bool busy() const { return busy_; }
  int fd() const { return fd_; }
  Clock::time_point deadline() const { return deadline_; }

 private:
  void start();
  void extend_deadline();
  std::optional<SimulatorAnswer> take_message();
  [[noreturn]] void fail(const std::string& what);
  std::string log_tail() const;

  std::string python_;
  std::filesystem::path script_, log_;
  pid_t pid_ = -1;
  int fd_ = -1;
  bool busy_ = false;
  Clock::time_point deadline_;
  double timeout_s_ = 0;
  std::string received_;
};

/// Waits until one of the busy simulators has something to read or is late; returns at once where one is.
void wait_for_any(const std::vector<Simulator*>& simulators);

/// The simulator's python: `given`, else that of scripts/setup_libero.sh. Throws UsageError that names the
/// command which installs it.
std::string find_simulator_python(const std::string& given);
/// libero_worker.py beside this program's sources or its installation.
std::filesystem::path find_worker_script(const std::filesystem::path& given);

}  // namespace shallowpi
