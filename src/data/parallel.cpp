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
#include "train_sft/base/test_point.h"

namespace train_sft {
namespace {

class Work {
 public:
  explicit Work(const std::function<Job()>& next) : next_(next) {}

  void run() {
    while (true) {
      size_t number = 0;
      const Job job = take(number);
      if (!job) break;
      test_point("tokenise");
      try {
        done_ += job();
      } catch (...) {
        const std::lock_guard lock(mutex_);
        keep_error(number);
      }
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
  // Jobs are taken in order: all before a failing one have been begun, and none after it is.
  Job take(size_t& number) {
    const std::lock_guard lock(next_mutex_);
    number = taken_++;
    {
      const std::lock_guard error_lock(mutex_);
      if (error_ || stopped_) return {};
    }
    try {
      return next_();
    } catch (...) {
      const std::lock_guard error_lock(mutex_);
      keep_error(number);
      return {};
    }
  }

  void keep_error(size_t number) {
    if (error_ && number > first_error_) return;
    first_error_ = number;
    error_ = std::current_exception();
  }

  const std::function<Job()>& next_;
  std::atomic<size_t> done_{0};
  std::atomic<bool> stopped_{false};
  std::mutex next_mutex_, mutex_;
  std::condition_variable all_finished_;
  size_t taken_ = 0;  // guarded by next_mutex_
  int finished_ = 0;
  size_t first_error_ = 0;
  std::exception_ptr error_;
};

}  // namespace

int resolve_threads(int64_t threads) {
  if (threads > 0) return static_cast<int>(std::min<int64_t>(threads, 1024));
  cpu_set_t allowed;
  if (sched_getaffinity(0, sizeof allowed, &allowed) == 0) return std::max(1, CPU_COUNT(&allowed));
  return std::max(1, static_cast<int>(std::thread::hardware_concurrency()));
}

void parallel_jobs(int threads, const std::string& label, uint64_t total,
                   const std::function<Job()>& next) {
  signals::throw_if_stopped();
  ProgressBar bar(label, total);
  Work shared(next);
  std::vector<std::thread> workers;
  for (int t = 0; t < threads; ++t) workers.emplace_back([&] { shared.run(); });
  shared.wait(threads, bar);
  for (std::thread& worker : workers) worker.join();
  shared.throw_error();
}

void parallel_for(size_t count, int threads, const std::string& label,
                  const std::function<size_t(size_t)>& cost,
                  const std::function<void(size_t)>& work) {
  constexpr size_t kRun = 16;
  uint64_t total = 0;
  for (size_t i = 0; i < count; ++i) total += cost(i);
  const size_t runs = (count + kRun - 1) / kRun;
  size_t next_run = 0;
  const auto next = [&]() -> Job {
    if (next_run == runs) return {};
    const size_t begin = next_run++ * kRun;
    const size_t end = std::min(begin + kRun, count);
    return [&, begin, end] {
      size_t done = 0;
      for (size_t i = begin; i < end && !signals::stop_requested(); ++i) {
        work(i);
        done += cost(i);
      }
      return done;
    };
  };
  threads = std::max(1, std::min<int>(threads, static_cast<int>(runs)));
  parallel_jobs(threads, label, total, next);
}

}  // namespace train_sft
