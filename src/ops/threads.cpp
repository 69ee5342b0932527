#include "ops/threads.h"

#include <ATen/Parallel.h>
#include <immintrin.h>

#include <atomic>
#include <cstdint>
#include <mutex>
#include <thread>

namespace train_sft::ops {
namespace {

constexpr int kSpins = 2000;  // pauses of 40 to 140 cycles: tens of microseconds

thread_local bool on_team = false;

// Returns when `value` is no longer `old`.
void wait_while_equal(const std::atomic<uint32_t>& value, uint32_t old) {
  for (int i = 0; i < kSpins; ++i) {
    if (value.load(std::memory_order_acquire) != old) return;
    _mm_pause();
  }
  while (value.load(std::memory_order_acquire) == old) value.wait(old, std::memory_order_acquire);
}

// One meeting point for a number of threads that may change from meeting to meeting.
class Barrier {
 public:
  void arrive(uint32_t threads) {
    const uint32_t round = round_.load(std::memory_order_acquire);
    if (arrived_.fetch_add(1, std::memory_order_acq_rel) + 1 == threads) {
      arrived_.store(0, std::memory_order_relaxed);
      round_.fetch_add(1, std::memory_order_acq_rel);
      round_.notify_all();
    } else {
      wait_while_equal(round_, round);
    }
  }

 private:
  alignas(64) std::atomic<uint32_t> arrived_{0};
  alignas(64) std::atomic<uint32_t> round_{0};
};

class Team {
 public:
  void run(int threads, void (*work)(void*, int, int), void* context) {
    const std::lock_guard<std::mutex> turn(turn_);
    for (; workers_ + 1 < threads; ++workers_) {
      std::thread([this, id = workers_ + 1, seen = job_.load()] { serve(id, seen); }).detach();
    }
    threads_ = threads;
    work_ = work;
    context_ = context;
    job_.fetch_add(1, std::memory_order_acq_rel);
    job_.notify_all();
    on_team = true;
    work(context, 0, threads);
    on_team = false;
    end_.arrive(static_cast<uint32_t>(workers_) + 1);
  }

  void barrier() { middle_.arrive(static_cast<uint32_t>(threads_)); }

 private:
  // Every worker hears of every job; those beyond its threads only report that they have.
  void serve(int id, uint32_t seen) {
    on_team = true;
    while (true) {
      wait_while_equal(job_, seen);
      ++seen;
      if (id < threads_) work_(context_, id, threads_);
      end_.arrive(static_cast<uint32_t>(workers_) + 1);
    }
  }

  std::mutex turn_;
  alignas(64) std::atomic<uint32_t> job_{0};
  int workers_ = 0, threads_ = 1;
  void (*work_)(void*, int, int) = nullptr;
  void* context_ = nullptr;
  Barrier middle_, end_;
};

// Never destroyed: workers live as long as the process.
Team& team() {
  static Team* const instance = new Team;
  return *instance;
}

}  // namespace

int available_threads() {
  return on_team ? 1 : at::get_num_threads();
}

void run_on_threads(int threads, void (*work)(void*, int, int), void* context) {
  if (threads <= 1) {
    work(context, 0, 1);
  } else {
    team().run(threads, work, context);
  }
}

void team_barrier() {
  team().barrier();
}

}  // namespace train_sft::ops
