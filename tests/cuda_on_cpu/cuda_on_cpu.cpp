#include "cuda_on_cpu.h"

#include <setjmp.h>
#include <ucontext.h>

#include <barrier>
#include <deque>
#include <memory>
#include <thread>
#include <vector>

thread_local dim3 threadIdx, blockIdx, gridDim, blockDim;

// The blocks' dynamic shared memory (fused_device.cuh), as much as an H200's.
namespace shallowpi::fused {
extern thread_local unsigned char dynamic_memory[];
alignas(128) thread_local unsigned char dynamic_memory[232448];
}  // namespace shallowpi::fused

namespace cuda_on_cpu {
namespace {

using shallowpi::fused::dynamic_memory;
constexpr std::size_t kStackBytes = 64 << 10;
constexpr unsigned kWarp = 32;

struct Copy {
  void* to;
  const void* from;
  bool valid;
};

enum class State { kReady, kInWarp, kInBlock, kInCluster, kEnded };

struct Thread {
  ucontext_t start{};
  jmp_buf context;
  bool started = false;
  State state = State::kReady;
  unsigned exchanges = 0;
  std::vector<Copy> copies;  ///< not committed yet
  std::deque<std::vector<Copy>> committed;
};

struct Warp {
  Words words[2][kWarp];  ///< of this exchange and the one before
};

/// What the blocks of a cluster share.
struct Cluster {
  explicit Cluster(unsigned blocks) : barrier(blocks), memory(blocks) {}
  std::barrier<> barrier;
  std::vector<unsigned char*> memory;
};

class Block {
 public:
  Block(unsigned size, Cluster& cluster, const std::function<void()>& body)
      : cluster(cluster),
        body(body),
        threads_(size),
        warps_((size + kWarp - 1) / kWarp),
        stacks_(new char[size * kStackBytes]) {}

  void run();
  Thread& thread() { return threads_[threadIdx.x]; }
  Warp& warp() { return warps_[threadIdx.x / kWarp]; }
  /// Lets others run until `state` is over.
  void wait(State state) {
    thread().state = state;
    if (_setjmp(thread().context) == 0) _longjmp(scheduler_, 1);
  }

  Cluster& cluster;
  const std::function<void()>& body;

 private:
  /// Runs the thread until it waits.
  void resume();
  /// Whether all threads of [begin, end) that have not ended wait in `state`, and one does; makes them ready.
  bool release(State state, unsigned begin, unsigned end);

  std::vector<Thread> threads_;
  std::vector<Warp> warps_;
  std::unique_ptr<char[]> stacks_;
  jmp_buf scheduler_;
};

thread_local Block* current = nullptr;

// A change of contexts asks the system for the signal mask; jumps, which take their place after the start, do
// not.
void Block::resume() {
  if (_setjmp(scheduler_) != 0) return;
  if (thread().started) _longjmp(thread().context, 1);
  thread().started = true;
  setcontext(&thread().start);
}

void run_thread() {
  current->body();
  current->wait(State::kEnded);
}

bool Block::release(State state, unsigned begin, unsigned end) {
  bool found = false;
  for (unsigned i = begin; i < end; ++i) {
    if (threads_[i].state != state && threads_[i].state != State::kEnded) return false;
    found |= threads_[i].state == state;
  }
  for (unsigned i = begin; i < end && found; ++i)
    if (threads_[i].state == state) threads_[i].state = State::kReady;
  return found;
}

void Block::run() {
  current = this;
  const auto size = static_cast<unsigned>(threads_.size());
  for (unsigned i = 0; i < size; ++i) {
    ucontext_t& start = threads_[i].start;
    getcontext(&start);
    start.uc_stack.ss_sp = stacks_.get() + i * kStackBytes;
    start.uc_stack.ss_size = kStackBytes;
    makecontext(&start, run_thread, 0);
  }
  for (;;) {
    bool any = false;
    // The last thread first: one that relies on an earlier one without a barrier is found out.
    for (threadIdx.x = size; threadIdx.x-- > 0;) {
      if (thread().state != State::kReady) continue;
      any = true;
      resume();
    }
    bool released = false;
    for (unsigned begin = 0; begin < size; begin += kWarp)
      released |= release(State::kInWarp, begin, std::min(begin + kWarp, size));
    released |= release(State::kInBlock, 0, size);
    if (release(State::kInCluster, 0, size)) {
      cluster.barrier.arrive_and_wait();
      released = true;
    }
    if (any || released) continue;
    for (const Thread& thread : threads_)
      TORCH_CHECK(thread.state == State::kEnded, "a thread waits for others that wait elsewhere");
    return;
  }
}

}  // namespace

void sync_warp() {
  current->wait(State::kInWarp);
}
void sync_block() {
  current->wait(State::kInBlock);
}
void sync_cluster() {
  current->wait(State::kInCluster);
}

const Words* exchange(const std::uint32_t* words, int count) {
  Words* const all = current->warp().words[current->thread().exchanges++ % 2];
  std::copy(words, words + count, all[threadIdx.x % kWarp]);
  sync_warp();
  return all;
}

const void* in_block(const void* mine, unsigned rank) {
  const auto offset = static_cast<const unsigned char*>(mine) - dynamic_memory;
  TORCH_CHECK(
      offset >= 0 && offset < std::ptrdiff_t(sizeof dynamic_memory) && rank < current->cluster.memory.size(),
      "no such place in the cluster");
  return current->cluster.memory[rank] + offset;
}

void copy_later(void* to, const void* from, bool valid) {
  current->thread().copies.push_back({to, from, valid});
}
void commit_copies() {
  current->thread().committed.push_back(std::move(current->thread().copies));
  current->thread().copies.clear();
}
void wait_for_copies(std::size_t pending) {
  auto& groups = current->thread().committed;
  for (; groups.size() > pending; groups.pop_front())
    for (const Copy& copy : groups.front()) {
      if (copy.valid) {
        std::memcpy(copy.to, copy.from, 16);
      } else {
        std::memset(copy.to, 0, 16);
      }
    }
}

void launch(dim3 grid, dim3 block, unsigned cluster_size, std::size_t shared_bytes,
            const std::function<void()>& thread) {
  TORCH_CHECK(
      grid.y % cluster_size == 0 && shared_bytes <= sizeof dynamic_memory && block.y == 1 && block.z == 1,
      "no such launch");
  for (unsigned z = 0; z < grid.z; ++z)
    for (unsigned first = 0; first < grid.y; first += cluster_size)
      for (unsigned x = 0; x < grid.x; ++x) {
        Cluster cluster(cluster_size);
        std::barrier started(cluster_size);
        const auto run = [&](unsigned rank) {
          std::memset(dynamic_memory, 0xff, shared_bytes);  // as bfloat16 and as float not a number
          cluster.memory[rank] = dynamic_memory;
          blockIdx = {x, first + rank, z};
          gridDim = grid;
          blockDim = block;
          started.arrive_and_wait();
          Block(block.x, cluster, thread).run();
        };
        std::vector<std::thread> others;
        for (unsigned rank = 1; rank < cluster_size; ++rank) others.emplace_back(run, rank);
        run(0);
        for (std::thread& other : others) other.join();
      }
}

}  // namespace cuda_on_cpu
