// One job at a time on another thread, whose failure surfaces in the thread that started it.
#pragma once

#include <chrono>
#include <functional>
#include <future>
#include <utility>

namespace shallowpi {

class BackgroundTask {
 public:
  /// Waits for a job that is still running; its error is lost here, so call wait() first where it matters.
  ~BackgroundTask() = default;

  /// Waits for the job before (rethrowing its error), then starts this one.
  void start(std::function<void()> job) {
    wait();
    future_ = std::async(std::launch::async, std::move(job));
  }
  /// Rethrows the error of a job that has ended.
  void check() {
    if (future_.valid() && future_.wait_for(std::chrono::seconds(0)) == std::future_status::ready)
      future_.get();
  }
  /// Waits for the job and rethrows its error.
  void wait() {
    if (future_.valid()) future_.get();
  }

 private:
  std::future<void> future_;
};

}  // namespace shallowpi
