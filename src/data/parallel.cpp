#include "parallel.h"

#include <sched.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <exception>
#include <mutex>
#include <thread>
#include <vector>

#include "train_sft/base/progress.h"
#include "train_sft/base/signals.h"

namespace train_sft {
namespace {

// Items are taken in ascending runs, so that all before a failing one have been tried.
class Work {
 public:
  Work(size_t count, const std::function<size_t(size_t)>& cost,
       const std::function<void(size_t)>& work)
      : count_(count), cost_(cost), work_(work), first_error_(count) {}

  void run() {
    for (size_t begin = next_.fetch_add(kRun); begin < count_; begin = next_.fetch_add(kRun)) {
      const size_t end = std::min(begin + kRun, count_);
      size_t done = 0;
      for (size_t i = begin; i < end; ++i) {
        if (stopped_ || i > first_error_) break;
        try {
          work_(i);
        } catch (...) {
          keep_error(i);
          break;
        }
        done += cost_(i);
      }
      done_ += done;
    }
    const std::lock_guard lock(mutex_);
    ++finished_;
    all_finished_.notify_all();
  }

  void wait(int threads, ProgressBar& bar) {
    std::unique_lock lock(mutex_);
    while (finished_ < threads) {
      all_finished_.wait_for(lock, std::chrono::milliseconds(50));
      bar.update(done_);
      if (signals::stop_requested()) stopped_ = true;
    }
  }

  void throw_error() const {
    if (stopped_) signals::throw_if_stopped();
    if (error_) std::rethrow_exception(error_);
  }

 private:
  static constexpr size_t kRun = 16;

  void keep_error(size_t i) {
    const std::lock_guard lock(mutex_);
    if (error_ && i > first_error_) return;
    first_error_ = i;
    error_ = std::current_exception();
  }

  size_t count_;
  const std::function<size_t(size_t)>& cost_;
  const std::function<void(size_t)>& work_;
  std::atomic<size_t> next_{0}, done_{0}, first_error_;
  std::atomic<bool> stopped_{false};
  std::mutex mutex_;
  std::condition_variable all_finished_;
  int finished_ = 0;
  std::exception_ptr error_;
};

}  // namespace

int resolve_threads(int64_t threads) {
  if (threads > 0) return static_cast<int>(std::min<int64_t>(threads, 1024));
  cpu_set_t allowed;
  if (sched_getaffinity(0, sizeof allowed, &allowed) == 0) return std::max(1, CPU_COUNT(&allowed));
  return std::max(1, static_cast<int>(std::thread::hardware_concurrency()));
}

void parallel_for(size_t count, int threads, const std::string& label,
                  const std::function<size_t(size_t)>& cost,
                  const std::function<void(size_t)>& work) {
  signals::throw_if_stopped();
  uint64_t total = 0;
  for (size_t i = 0; i < count; ++i) total += cost(i);
  ProgressBar bar(label, total);
  Work shared(count, cost, work);
  threads = std::max(1, std::min<int>(threads, static_cast<int>((count + 15) / 16)));
  std::vector<std::thread> workers;
  for (int t = 0; t < threads; ++t) workers.emplace_back([&] { shared.run(); });
  shared.wait(threads, bar);
  for (std::thread& worker : workers) worker.join();
  shared.throw_error();
}

}  // namespace train_sft
