// The thread that runs the policy, and the bounded queue before it. A connection has at most one observation
// in it, so that first come, first served is fair among connections.
#pragma once

#include <chrono>
#include <condition_variable>
#include <deque>
#include <functional>
#include <mutex>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "runtime/observation_message.h"
#include "runtime/server_metrics.h"
#include "shallowpi/base/stopwatch.h"

namespace shallowpi {

/// PolicyRunner::infer, or a test's stand-in; throws what that throws. May fill in what a request lacks.
using InferFunction =
    std::function<std::vector<InferResult>(std::vector<InferRequest>&, const InferOptions&)>;

struct QueueOptions {
  std::size_t capacity = 16;                         ///< observations that may wait
  std::size_t max_batch = 1;                         ///< observations inferred together
  std::chrono::milliseconds batch_window{0};         ///< how long to wait for more of them
  std::optional<std::chrono::milliseconds> max_age;  ///< of an observation with a timestamp, answer included
  std::chrono::milliseconds inference_timeout{60000};  ///< after which a running inference counts as hung
  std::size_t failures_to_stop = 3;  ///< failed inferences in a row after which the policy counts as broken
};

/// What became of one observation: `result`, or `error` in words for the client.
struct Outcome {
  RequestEnd end = RequestEnd::kFailed;
  InferResult result;
  std::string error;
  double infer_ms = 0;
};

class InferenceQueue {
 public:
  struct Job {
    PolicyRequest request;
    std::function<bool()> gone;         ///< has the client left? Then the observation is skipped
    std::function<void(Outcome)> done;  ///< called once, from the inference thread
    Stopwatch waiting;
  };

  /// `on_broken` is called from the inference thread when the policy has failed too often.
  InferenceQueue(InferFunction infer, QueueOptions options, ServerMetrics& metrics,
                 std::function<void()> on_broken);
  /// Works off what is queued.
  ~InferenceQueue();

  /// False, with `job` dropped, where the queue is full.
  bool submit(Job job);
  /// What ails the policy, in a sentence: its last inference failed, or the running one hangs. Else empty.
  std::string trouble() const;

 private:
  void work();
  std::vector<Job> next_batch(std::unique_lock<std::mutex>& lock);
  void run_batch(std::vector<Job>& batch);
  struct Attempt;
  Attempt attempt(std::vector<Job>& batch);
  Attempt infer(std::vector<InferRequest>& requests, const InferOptions& options);
  bool count_failures(RequestEnd end);
  void finish(Job& job, Outcome outcome);
  std::optional<Outcome> refuse_early(const Job& job) const;

  const InferFunction infer_;
  const QueueOptions options_;
  ServerMetrics& metrics_;
  const std::function<void()> on_broken_;
  mutable std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<Job> waiting_;
  std::size_t failures_ = 0;  // in a row
  std::optional<Stopwatch> running_;
  bool ending_ = false;
  std::thread thread_;  // last: it uses the members above
};

}  // namespace shallowpi
