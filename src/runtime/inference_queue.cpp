#include "runtime/inference_queue.h"

#include <algorithm>
#include <cmath>

#include "shallowpi/base/error.h"
#include "shallowpi/base/log.h"

namespace shallowpi {
namespace {

double unix_seconds() {
  return std::chrono::duration<double>(std::chrono::system_clock::now().time_since_epoch()).count();
}

bool all_finite(const RobotActions& actions) {
  return std::all_of(actions.begin(), actions.end(), [](const std::vector<float>& step) {
    return std::all_of(step.begin(), step.end(), [](float value) { return std::isfinite(value); });
  });
}

}  // namespace

InferenceQueue::InferenceQueue(InferFunction infer, QueueOptions options, ServerMetrics& metrics,
                               std::function<void()> on_broken)
    : infer_(std::move(infer)),
      options_(options),
      metrics_(metrics),
      on_broken_(std::move(on_broken)),
      thread_([this] { work(); }) {}

InferenceQueue::~InferenceQueue() {
  {
    const std::lock_guard lock(mutex_);
    ending_ = true;
  }
  changed_.notify_all();
  thread_.join();
}

bool InferenceQueue::submit(Job job) {
  {
    const std::lock_guard lock(mutex_);
    if (waiting_.size() >= options_.capacity) return false;
    waiting_.push_back(std::move(job));
    metrics_.set_queued(waiting_.size());
  }
  changed_.notify_all();
  return true;
}

std::string InferenceQueue::trouble() const {
  const std::lock_guard lock(mutex_);
  if (running_ && running_->seconds() * 1e3 > static_cast<double>(options_.inference_timeout.count()))
    return str("An inference has been running for ", std::llround(running_->seconds()), " s.");
  return failures_ == 0 ? "" : "The policy fails.";
}

void InferenceQueue::work() {
  std::unique_lock lock(mutex_);
  while (true) {
    changed_.wait(lock, [&] { return ending_ || !waiting_.empty(); });
    if (waiting_.empty()) return;
    std::vector<Job> batch = next_batch(lock);
    metrics_.set_queued(waiting_.size());
    lock.unlock();
    if (!batch.empty()) run_batch(batch);
    batch.clear();
    lock.lock();
    running_.reset();
  }
}

/// The oldest observation and those that can be inferred with it. Answers what is not worth inferring.
std::vector<InferenceQueue::Job> InferenceQueue::next_batch(std::unique_lock<std::mutex>& lock) {
  // The oldest has waited already; and a connection has one observation at a time, so no more can come.
  const std::chrono::duration<double> left =
      options_.batch_window - std::chrono::duration<double>(waiting_.front().waiting.seconds());
  const std::size_t connections = metrics_.connections();
  const std::size_t most = connections == 0 ? options_.max_batch : std::min(options_.max_batch, connections);
  if (most > 1 && left.count() > 0)
    changed_.wait_for(lock, left, [&] { return ending_ || waiting_.size() >= most; });
  std::vector<Job> batch;
  for (auto job = waiting_.begin(); job != waiting_.end() && batch.size() < options_.max_batch;) {
    if (std::optional<Outcome> refusal = refuse_early(*job)) {
      finish(*job, std::move(*refusal));
    } else if (batch.empty() || batch.front().request.options.steps == job->request.options.steps) {
      batch.push_back(std::move(*job));
    } else {
      ++job;
      continue;
    }
    job = waiting_.erase(job);
  }
  return batch;
}

/// Not worth an answer: the client has left, or the observation is too old.
std::optional<Outcome> InferenceQueue::refuse_early(const Job& job) const {
  if (job.gone && job.gone()) return Outcome{RequestEnd::kAbandoned, {}, "the client has left", 0};
  if (!options_.max_age || !job.request.timestamp_s) return {};
  const double age_ms = (unix_seconds() - *job.request.timestamp_s) * 1e3;
  const double limit_ms = static_cast<double>(options_.max_age->count());
  const auto stale = [](const std::string& why) {
    return Outcome{RequestEnd::kStale, {}, "timestamp: " + why, 0};
  };
  if (age_ms < -limit_ms) return stale("it lies in the future; set the clocks of robot and server");
  if (age_ms > limit_ms)
    return stale(
        str("the observation is ", std::llround(age_ms), " ms old, at most ", options_.max_age->count()));
  return {};
}

struct InferenceQueue::Attempt {
  RequestEnd end = RequestEnd::kAnswered;
  std::string error;
  std::vector<InferResult> results;
};

InferenceQueue::Attempt InferenceQueue::attempt(std::vector<Job>& batch) {
  std::vector<InferRequest> requests;  // lent, for images are large; a batch may be tried again
  for (Job& job : batch) requests.push_back(std::move(job.request.infer));
  Attempt made = infer(requests, batch.front().request.options);
  for (std::size_t i = 0; i < batch.size(); ++i) batch[i].request.infer = std::move(requests[i]);
  return made;
}

InferenceQueue::Attempt InferenceQueue::infer(std::vector<InferRequest>& requests,
                                              const InferOptions& options) {
  try {
    Attempt done{RequestEnd::kAnswered, "", infer_(requests, options)};
    if (done.results.size() != requests.size()) throw Error("the policy returned another number of answers");
    for (const InferResult& result : done.results)
      if (!all_finite(result.actions)) throw NotFiniteError("an action is not finite");
    return done;
  } catch (const UsageError& problem) {
    return {RequestEnd::kBadMessage, problem.what(), {}};
  } catch (const NotFiniteError&) {
    return {RequestEnd::kNotFinite, "actions: the policy's answer is not finite; it is not sent", {}};
  } catch (const std::exception& problem) {
    log::error("inference failed: ", problem.what());
    return {RequestEnd::kFailed, "the policy failed on this observation", {}};
  }
}

/// True where the policy is to be given up. Observations that are to blame themselves say nothing of it.
bool InferenceQueue::count_failures(RequestEnd end) {
  const std::lock_guard lock(mutex_);
  if (end == RequestEnd::kAnswered) failures_ = 0;
  if (end == RequestEnd::kFailed) ++failures_;
  return end == RequestEnd::kFailed && failures_ == options_.failures_to_stop;
}

void InferenceQueue::run_batch(std::vector<Job>& batch) {
  const double queued_s = batch.front().waiting.seconds();
  {
    const std::lock_guard lock(mutex_);
    running_.emplace();  // anew for each observation of a batch that is tried again one by one
  }
  const Stopwatch watch;
  Attempt made = attempt(batch);
  const double infer_s = watch.seconds();
  metrics_.observe_batch(batch.size(), queued_s, infer_s);
  if (batch.size() > 1 && (made.end == RequestEnd::kBadMessage || made.end == RequestEnd::kNotFinite)) {
    for (Job& job : batch) {  // one observation is to blame; the others get their answers
      std::vector<Job> alone;
      alone.push_back(std::move(job));
      run_batch(alone);
    }
    return;
  }
  const bool broken = count_failures(made.end);
  for (std::size_t i = 0; i < batch.size(); ++i) {
    Outcome outcome{made.end, {}, made.error, infer_s * 1e3};
    if (made.end == RequestEnd::kAnswered) outcome.result = std::move(made.results[i]);
    if (std::optional<Outcome> late = refuse_early(batch[i])) outcome = std::move(*late);
    finish(batch[i], std::move(outcome));
  }
  if (broken && on_broken_) on_broken_();
}

void InferenceQueue::finish(Job& job, Outcome outcome) {
  metrics_.count(outcome.end);
  job.done(std::move(outcome));
}

}  // namespace shallowpi
