#include "distill/team.h"

#include <ATen/Parallel.h>

#include <utility>

namespace shallowpi {

Team::Team(std::size_t size) : errors_(size) {
  try {
    for (std::size_t i = 1; i < size; ++i) threads_.emplace_back([this, i] { loop(i); });
  } catch (...) {
    stop();  // those that did start
    throw;
  }
}

Team::~Team() {
  stop();
}

void Team::stop() {
  {
    const std::lock_guard lock(mutex_);
    stopping_ = true;
  }
  start_.notify_all();
  threads_.clear();
}

void Team::loop(std::size_t index) {
  at::init_num_threads();  // else OpenMP would take all cores in this thread
  std::uint64_t done = 0;
  std::unique_lock lock(mutex_);
  while (true) {
    start_.wait(lock, [&] { return stopping_ || jobs_ > done; });
    if (stopping_) return;
    ++done;
    lock.unlock();
    attempt(index);
    lock.lock();
    if (--running_ == 0) end_.notify_one();
  }
}

void Team::attempt(std::size_t index) {
  try {
    (*work_)(index);
  } catch (...) {
    errors_[index] = std::current_exception();
  }
}

void Team::run(const std::function<void(std::size_t)>& work) {
  {
    const std::lock_guard lock(mutex_);
    work_ = &work;
    running_ = threads_.size();
    ++jobs_;
  }
  start_.notify_all();
  attempt(0);
  std::unique_lock lock(mutex_);
  end_.wait(lock, [&] { return running_ == 0; });
  lock.unlock();
  std::exception_ptr first;
  for (std::exception_ptr& error : errors_)
    if (const std::exception_ptr taken = std::exchange(error, nullptr); taken && !first) first = taken;
  if (first) std::rethrow_exception(first);
}

}  // namespace shallowpi
