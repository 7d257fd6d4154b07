// Threads that do the parts of one job at the same time.
#pragma once

#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <exception>
#include <functional>
#include <mutex>
#include <thread>
#include <vector>

namespace shallowpi {

class Team {
 public:
  /// `size` - 1 threads beside the one that calls run(). They live as long as the team: what LibTorch keeps
  /// for each thread, such as the plans of cuDNN's attention, is made once.
  explicit Team(std::size_t size);
  ~Team();
  Team(const Team&) = delete;
  Team& operator=(const Team&) = delete;

  /// work(0) in this thread, work(1), ..., work(size - 1) each always in the same other one. Returns when all
  /// have ended; rethrows what the first of them has thrown.
  void run(const std::function<void(std::size_t)>& work);

 private:
  void loop(std::size_t index);
  void attempt(std::size_t index);
  void stop();

  std::mutex mutex_;  // guards the next four
  std::condition_variable start_, end_;
  std::uint64_t jobs_ = 0;
  std::size_t running_ = 0;
  bool stopping_ = false;
  const std::function<void(std::size_t)>* work_ = nullptr;
  std::vector<std::exception_ptr> errors_;
  std::vector<std::jthread> threads_;
};

}  // namespace shallowpi
