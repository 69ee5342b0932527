// Fixed shares of work for threads, and the working memory they keep.
#pragma once

#include <cstdint>
#include <cstdlib>
#include <type_traits>

#include "ops/simd/vec.h"
#include "ops/threads.h"

namespace train_sft::ops::TRAIN_SFT_ISA {
namespace {

// Working memory kept between calls; declare it thread_local. Grows, never shrinks.
class KeptMemory {
 public:
  ~KeptMemory() { std::free(memory_); }
  void* get(int64_t bytes) {
    if (bytes > capacity_) {
      std::free(memory_);
      capacity_ = (bytes + 4095) / 4096 * 4096;
      memory_ = std::aligned_alloc(64, static_cast<size_t>(capacity_));
      if (memory_ == nullptr) std::abort();
    }
    return memory_;
  }
  float* floats(int64_t count) { return static_cast<float*>(get(count * 4)); }

 private:
  void* memory_ = nullptr;
  int64_t capacity_ = 0;
};

// Where part `index` of `parts` begins.
TRAIN_SFT_INLINE int64_t share(int64_t total, int64_t index, int64_t parts) {
  return total * index / parts;
}

// `elements`: memory touched, or what costs as much. Below some thousands of them, waking the
// threads costs more than they save.
TRAIN_SFT_INLINE int threads_for(int64_t elements) {
  constexpr int64_t kWorthwhile = 1 << 14;
  return elements < kWorthwhile ? 1 : available_threads();
}

// f(thread, threads) on each of a team.
template <typename F>
TRAIN_SFT_INLINE void on_team(int threads, F&& f) {
  auto call = [](void* context, int thread, int team) {
    (*static_cast<std::remove_reference_t<F>*>(context))(int64_t{thread}, int64_t{team});
  };
  run_on_threads(threads, call, &f);
}

// f(begin, end, thread) on each thread's share of [0, count), in multiples of `grain`.
template <typename F>
TRAIN_SFT_INLINE void parallel_shares(int64_t count, int64_t grain, int threads, F&& f) {
  const int64_t grains = (count + grain - 1) / grain;
  on_team(threads, [&](int64_t me, int64_t team) {
    const int64_t begin = share(grains, me, team) * grain;
    const int64_t end = share(grains, me + 1, team) * grain;
    f(begin, end < count ? end : count, me);
  });
}

}  // namespace
}  // namespace train_sft::ops::TRAIN_SFT_ISA
