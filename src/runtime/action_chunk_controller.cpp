#include "shallowpi/runtime/action_chunk_controller.h"

#include "shallowpi/base/log.h"

namespace shallowpi {

ActionChunkController::ActionChunkController(const ChunkingOptions& options, ChunkInference infer,
                                             ObservationCheck check)
    : chunker_(options), infer_(std::move(infer)), check_(std::move(check)), worker_([this] { work(); }) {
  if (options.mode != ChunkMode::kRtc) return;
  const std::string warning = options.trained_delay == 0
                                  ? "rtc: the policy is not known to have learned to continue actions "
                                    "(policy.rtc_training_max_delay)"
                                  : rtc_warning(options.expected_delay, options.trained_delay);
  if (!warning.empty()) log::warning(warning);
}

ActionChunkController::~ActionChunkController() {
  {
    const std::lock_guard lock(mutex_);
    stop_ = true;
  }
  changed_.notify_one();
  worker_.join();
}

ChunkTick ActionChunkController::tick(const RobotObservation& observation) {
  if (check_) check_(observation);
  std::vector<Answer> answers;
  {
    const std::lock_guard lock(mutex_);
    answers.swap(answers_);
  }
  for (Answer& answer : answers) {
    last_latency_ms_ = answer.latency_ms;
    chunker_.deliver(std::move(answer.answer));
  }
  if (chunker_.wants_request()) {
    // Copied first: a request that is made and not sent would never be answered.
    Job job{{}, observation, {}};
    job.request = *chunker_.next_request();
    {
      // After a reset() the job of the old episode may still wait here: nobody wants its answer.
      const std::lock_guard lock(mutex_);
      job_ = std::move(job);
    }
    changed_.notify_one();
  }
  return chunker_.tick();
}

ChunkAnswer ActionChunkController::infer(Job& job) const {
  try {
    return {job.request.id, infer_(std::move(job.observation), job.request.prefix), ""};
  } catch (const std::exception& error) {
    const std::string why = error.what();
    return {job.request.id, {}, why.empty() ? "inference failed without a reason" : why};
  } catch (...) {
    return {job.request.id, {}, "inference failed with an unknown exception"};
  }
}

void ActionChunkController::work() {
  while (true) {
    std::optional<Job> job;
    {
      std::unique_lock lock(mutex_);
      changed_.wait(lock, [&] { return stop_ || job_; });
      if (stop_) return;
      job.swap(job_);
    }
    ChunkAnswer answer = infer(*job);
    const double took_ms = job->since.milliseconds();
    const std::lock_guard lock(mutex_);
    answers_.push_back({std::move(answer), took_ms});
  }
}

}  // namespace shallowpi
