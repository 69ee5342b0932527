#include "collective/cuda/nccl.h"

#include <chrono>
#include <torch/csrc/distributed/c10d/ProcessGroupNCCL.hpp>

namespace {

// c10d's own watchdog ends a process without a word of which step; ours comes before it.
constexpr std::chrono::minutes kAfterOurs{2};

}  // namespace

c10d::Backend* train_sft_connect_devices(const c10::intrusive_ptr<c10d::Store>& store, int rank,
                                         int size, int64_t timeout_ms) {
  const auto options = c10d::ProcessGroupNCCL::Options::create(/*is_high_priority_stream=*/true);
  options->timeout = std::chrono::milliseconds(timeout_ms) + kAfterOurs;
  return c10::make_intrusive<c10d::ProcessGroupNCCL>(store, rank, size, options).release();
}
