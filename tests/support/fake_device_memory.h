// The queue and the memory of the fake device, for its ops.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <deque>
#include <functional>
#include <limits>
#include <vector>

#include "support/fake_device.h"
#include "train_sft/ops/device_table.h"

namespace train_sft::fake_device {

struct Failure {
  int64_t in = 0, times = 0;  // in: 1 is the next; 0: never
  bool now() {
    if (in == 0 || --in > 0) return false;
    if (--times > 0) in = 1;
    return true;
  }
};

struct State {
  Counts counts;
  Failure allocation, capture, replay;
  int64_t limit = 0;
  std::deque<std::function<void()>> queue;
  uint64_t done = 0;  // of all that was ever queued
  uint64_t queued() const { return done + queue.size(); }
  bool capturing = false, capture_broken = false;
  std::vector<std::function<void()>> recorded;
};
State& state();

// Queues work, or records it.
void submit(std::function<void()> work);
// Runs what is queued, with the memory open; all of it, or until so much was done.
void flush(uint64_t until = std::numeric_limits<uint64_t>::max());
// The host waits until so much was done, which counts.
void wait_for(uint64_t done);
// Fails where a real capture would.
void not_in_a_capture(const char* what);
// The same bytes as a CPU tensor, for queued work: where they are now, whatever becomes of the
// view.
at::Tensor host_alias(const at::Tensor& tensor);

ops::DeviceTable table();
void release_scratch();  // of its kernels

}  // namespace train_sft::fake_device
