#include "runtime/inference_queue.h"

#include <cmath>
#include <functional>
#include <future>

#include "test_util.h"

namespace shallowpi {
namespace {

/// A policy that waits at a gate, and notes the batches it sees by their states.
struct FakePolicy {
  std::promise<void> gate;
  std::shared_future<void> open = gate.get_future().share();
  std::vector<std::vector<float>> batches;
  std::function<void()> on_call = [] {};

  std::vector<InferResult> operator()(const std::vector<InferRequest>& requests, const InferOptions&) {
    open.wait();
    on_call();
    std::vector<InferResult> results;
    std::vector<float> batch;
    for (const InferRequest& request : requests) {
      const float id = request.observation.state.at(0);
      batch.push_back(id);
      InferResult result;
      result.actions = {{id}};
      results.push_back(result);
    }
    batches.push_back(batch);
    for (const InferRequest& request : requests) {
      if (request.observation.prompt == "blame") throw UsageError("prompt: blame");
      if (request.observation.prompt == "fail") throw std::runtime_error("at /secret/path");
    }
    return results;
  }
};

class Queue : public ::testing::Test {
 protected:
  void start(QueueOptions options = {}) {
    queue_ = std::make_unique<InferenceQueue>(std::ref(policy_), options, metrics_, [this] { ++broken_; });
  }
  std::future<Outcome> submit(float id, std::int64_t steps = 10, const std::string& prompt = "go",
                              std::function<void(InferenceQueue::Job&)> change = {}) {
    auto promise = std::make_shared<std::promise<Outcome>>();
    InferenceQueue::Job job;
    job.request.infer.observation.state = {id};
    job.request.infer.observation.prompt = prompt;
    job.request.options.steps = steps;
    job.done = [promise](Outcome outcome) { promise->set_value(std::move(outcome)); };
    if (change) change(job);
    if (!queue_->submit(std::move(job))) return {};
    return promise->get_future();
  }
  void finish() {
    policy_.gate.set_value();
    queue_.reset();
  }

  ServerMetrics metrics_;
  FakePolicy policy_;
  std::unique_ptr<InferenceQueue> queue_;
  std::atomic<int> broken_{0};
};

/// Submits a first observation and waits until the policy has it, so that the next ones queue up.
#define OCCUPY()          \
  auto first = submit(0); \
  while (metrics_.prometheus().find("shallowpi_queued 0\n") == std::string::npos) usleep(1000)

TEST_F(Queue, AnswersInTheOrderOfArrivalAndRefusesWhatIsTooMuch) {
  QueueOptions options;
  options.capacity = 3;
  start(options);
  OCCUPY();
  auto a = submit(1), b = submit(2), c = submit(3);
  EXPECT_FALSE(submit(4).valid());
  finish();
  EXPECT_EQ(policy_.batches, (std::vector<std::vector<float>>{{0}, {1}, {2}, {3}}));
  EXPECT_EQ(b.get().result.actions, (RobotActions{{2}}));
  EXPECT_EQ(first.get().end, RequestEnd::kAnswered);
}

TEST_F(Queue, BatchesWhatFitsTogether) {
  QueueOptions options;
  options.max_batch = 3;
  start(options);
  OCCUPY();
  std::vector<std::future<Outcome>> rest;
  for (float id : {1.f, 2.f, 3.f, 4.f, 5.f}) rest.push_back(submit(id, id == 2 ? 5 : 10));
  finish();
  EXPECT_EQ(policy_.batches, (std::vector<std::vector<float>>{{0}, {1, 3, 4}, {2}, {5}}));
  for (std::size_t i = 0; i < rest.size(); ++i)
    EXPECT_EQ(rest[i].get().result.actions, (RobotActions{{static_cast<float>(i + 1)}}));
}

TEST_F(Queue, WaitsForTheBatchWindow) {
  QueueOptions options;
  options.max_batch = 2;
  options.batch_window = std::chrono::milliseconds(2000);
  start(options);
  policy_.gate.set_value();
  auto a = submit(1), b = submit(2);
  EXPECT_EQ(a.get().end, RequestEnd::kAnswered);
  b.wait();
  queue_.reset();
  EXPECT_EQ(policy_.batches, (std::vector<std::vector<float>>{{1, 2}}));
}

TEST_F(Queue, BlamesOnlyTheObservationThatIsBad) {
  QueueOptions options;
  options.max_batch = 3;
  start(options);
  OCCUPY();
  auto a = submit(1), b = submit(2, 10, "blame"), c = submit(3);
  finish();
  EXPECT_EQ(a.get().end, RequestEnd::kAnswered);
  const Outcome bad = b.get();
  EXPECT_EQ(bad.end, RequestEnd::kBadMessage);
  EXPECT_EQ(bad.error, "prompt: blame");
  EXPECT_EQ(c.get().result.actions, (RobotActions{{3}}));
}

TEST_F(Queue, HidesWhatFailedAndGivesUpAfterThreeInARow) {
  start();
  policy_.gate.set_value();
  for (int i = 1; i <= 2; ++i) {
    const Outcome outcome = submit(1, 10, "fail").get();
    EXPECT_EQ(outcome.end, RequestEnd::kFailed);
    EXPECT_EQ(outcome.error, "the policy failed on this observation");
    EXPECT_EQ(queue_->trouble(), "The policy fails.");
  }
  EXPECT_EQ(submit(1).get().end, RequestEnd::kAnswered);
  EXPECT_EQ(queue_->trouble(), "");
  for (int i = 0; i < 3; ++i) {
    EXPECT_EQ(broken_, 0);
    submit(1, 10, "fail").wait();
  }
  queue_.reset();
  EXPECT_EQ(broken_, 1);
}

TEST_F(Queue, NoticesAnInferenceThatHangs) {
  QueueOptions options;
  options.inference_timeout = std::chrono::milliseconds(20);
  start(options);
  EXPECT_EQ(queue_->trouble(), "");
  OCCUPY();
  usleep(40000);
  EXPECT_EQ(queue_->trouble(), "An inference has been running for 0 s.");
  policy_.gate.set_value();
  EXPECT_EQ(first.get().end, RequestEnd::kAnswered);
  while (!queue_->trouble().empty()) usleep(1000);  // it is over once its client has the answer
  queue_.reset();
}

TEST_F(Queue, ABatchThatIsTriedAgainOneByOneDoesNotHang) {
  QueueOptions options;
  options.max_batch = 3;
  options.inference_timeout = std::chrono::milliseconds(500);
  start(options);
  std::vector<std::string> troubles;
  OCCUPY();
  auto a = submit(1), b = submit(2, 10, "blame"), c = submit(3);
  policy_.on_call = [&] {
    if (!policy_.batches.empty()) usleep(150000);  // four times, longer than the timeout in all
    troubles.push_back(queue_->trouble());
  };
  policy_.gate.set_value();
  EXPECT_EQ(c.get().end, RequestEnd::kAnswered);
  EXPECT_EQ(troubles, std::vector<std::string>(5));
  queue_.reset();
}

TEST_F(Queue, NeverSendsActionsThatAreNotFinite) {
  start();
  policy_.gate.set_value();
  for (float bad : {NAN, INFINITY}) {
    const Outcome outcome = submit(bad).get();
    EXPECT_EQ(outcome.end, RequestEnd::kNotFinite);
    EXPECT_EQ(outcome.error.rfind("actions: ", 0), 0u);
    EXPECT_TRUE(outcome.result.actions.empty());
  }
}

TEST_F(Queue, RefusesOldObservationsAndThoseOfTheFuture) {
  QueueOptions options;
  options.max_age = std::chrono::milliseconds(100);
  start(options);
  const auto stamped = [&](double age_s) {
    return [age_s](InferenceQueue::Job& job) {
      job.request.timestamp_s =
          std::chrono::duration<double>(std::chrono::system_clock::now().time_since_epoch()).count() - age_s;
    };
  };
  OCCUPY();
  auto waits = submit(1, 10, "go", stamped(0));
  auto future = submit(2, 10, "go", stamped(-10));
  auto none = submit(3);
  usleep(200000);  // the first one ages in the queue
  finish();
  const Outcome old = waits.get();
  EXPECT_EQ(old.end, RequestEnd::kStale);
  EXPECT_EQ(old.error.rfind("timestamp: the observation is ", 0), 0u);
  EXPECT_NE(future.get().error.find("future"), std::string::npos);
  EXPECT_EQ(none.get().end, RequestEnd::kAnswered);
  EXPECT_EQ(policy_.batches, (std::vector<std::vector<float>>{{0}, {3}}));
}

TEST_F(Queue, NeverSendsAnAnswerThatCameTooLate) {
  QueueOptions options;
  options.max_age = std::chrono::milliseconds(100);
  start(options);
  auto late = submit(1, 10, "go", [](InferenceQueue::Job& job) {
    job.request.timestamp_s =
        std::chrono::duration<double>(std::chrono::system_clock::now().time_since_epoch()).count();
  });
  while (metrics_.prometheus().find("shallowpi_queued 0\n") == std::string::npos) usleep(1000);
  usleep(200000);
  finish();
  EXPECT_EQ(policy_.batches.size(), 1u);
  EXPECT_EQ(late.get().end, RequestEnd::kStale);
}

TEST_F(Queue, SkipsThoseWhoHaveLeft) {
  start();
  OCCUPY();
  auto left = submit(1, 10, "go", [](InferenceQueue::Job& job) { job.gone = [] { return true; }; });
  finish();
  EXPECT_EQ(left.get().end, RequestEnd::kAbandoned);
  EXPECT_EQ(policy_.batches.size(), 1u);
  EXPECT_NE(metrics_.prometheus().find("shallowpi_requests_total{end=\"abandoned\"} 1\n"), std::string::npos);
}

}  // namespace
}  // namespace shallowpi
