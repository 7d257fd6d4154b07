#include "shallowpi/data/loader.h"

#include <algorithm>
#include <condition_variable>
#include <exception>
#include <mutex>
#include <thread>
#include <utility>

#include "data/sampling.h"
#include "shallowpi/base/error.h"
#include "shallowpi/base/stopwatch.h"
#include "shallowpi/base/text.h"
#include "shallowpi/data/random.h"

namespace shallowpi {
namespace {

constexpr std::int64_t kMaxWorkers = 1024;
constexpr std::uint64_t kAugmentStream = 1;  // apart from the streams that choose the samples

// A batch on its way from a worker to next().
struct Slot {
  bool ready = false;
  TrainingBatch batch;
  std::exception_ptr error;
};

void check_options(const LoaderOptions& options, std::int64_t start_batch) {
  if (options.batch_size < 1)
    throw UsageError(str("the batch size ", options.batch_size, " must be positive"));
  if (options.workers < 0 || options.workers > kMaxWorkers || options.prefetch < 1)
    throw UsageError(str("data.workers is ", options.workers, " and data.prefetch ", options.prefetch,
                         "; workers must be 0 to ", kMaxWorkers, ", prefetch at least 1"));
  if (start_batch < 0) throw UsageError(str("loader: start batch ", start_batch, " is negative"));
}

}  // namespace

struct Loader::Impl {
  Impl(std::shared_ptr<const SamplePipeline> pipeline, const Dataset& dataset,
       std::vector<Dataset::Sample> samples, LoaderOptions options, std::int64_t start_batch)
      : pipeline(std::move(pipeline)),
        order(dataset, std::move(samples), options.seed),
        options(options),
        next_to_make(start_batch),
        next_to_give(start_batch),
        ring(std::max(options.prefetch, options.workers)) {
    try {
      for (std::int64_t i = 0; i < options.workers; ++i) threads.emplace_back([this] { work(); });
    } catch (...) {
      stop();  // those that did start
      throw;
    }
  }
  ~Impl() { stop(); }

  void stop() {
    {
      const std::lock_guard lock(mutex);
      stopping = true;
    }
    space.notify_all();
    threads.clear();
  }

  TrainingBatch make(std::int64_t number) const {
    std::vector<Dataset::Sample> samples;
    for (std::int64_t i = 0; i < options.batch_size; ++i)
      samples.push_back(order.at(static_cast<std::uint64_t>(number * options.batch_size + i)));
    std::optional<Augmentation> augmentation = options.augmentation;
    if (augmentation) {
      Random random({options.seed, kAugmentStream, static_cast<std::uint64_t>(number)});
      augmentation->seed = random.next();
    }
    return pipeline->make_batch(samples, augmentation);
  }

  Slot& slot(std::int64_t number) { return ring[number % ring.size()]; }

  void work() {
    std::unique_lock lock(mutex);
    while (true) {
      space.wait(lock, [&] {
        return stopping || next_to_make < next_to_give + static_cast<std::int64_t>(ring.size());
      });
      if (stopping) return;
      const std::int64_t number = next_to_make++;
      lock.unlock();
      Slot made;
      try {
        made.batch = make(number);
      } catch (...) {
        made.error = std::current_exception();
      }
      made.ready = true;
      lock.lock();
      slot(number) = std::move(made);
      ready.notify_one();
    }
  }

  TrainingBatch take() {
    std::unique_lock lock(mutex);
    ready.wait(lock, [&] { return slot(next_to_give).ready; });
    Slot taken = std::exchange(slot(next_to_give), Slot());
    ++next_to_give;
    lock.unlock();
    space.notify_one();
    if (taken.error) std::rethrow_exception(taken.error);
    return std::move(taken.batch);
  }

  const std::shared_ptr<const SamplePipeline> pipeline;
  const SampleOrder order;
  const LoaderOptions options;
  std::mutex mutex;  // guards all below but the threads
  std::condition_variable space, ready;
  std::int64_t next_to_make, next_to_give;
  std::vector<Slot> ring;
  bool stopping = false;
  double wait_seconds = 0.0;
  std::vector<std::jthread> threads;
};

Loader::Loader(std::shared_ptr<const SamplePipeline> pipeline, const Dataset& dataset,
               std::vector<Dataset::Sample> samples, LoaderOptions options, std::int64_t start_batch) {
  check_options(options, start_batch);
  impl_ = std::make_unique<Impl>(std::move(pipeline), dataset, std::move(samples), options, start_batch);
}

Loader::~Loader() = default;

TrainingBatch Loader::next() {
  const Stopwatch watch;
  TrainingBatch batch = impl_->options.workers > 0 ? impl_->take() : impl_->make(impl_->next_to_give++);
  const std::lock_guard lock(impl_->mutex);
  impl_->wait_seconds += watch.seconds();
  return batch;
}

double Loader::wait_seconds() const {
  const std::lock_guard lock(impl_->mutex);
  return impl_->wait_seconds;
}

}  // namespace shallowpi
