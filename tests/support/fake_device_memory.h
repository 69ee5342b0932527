// The queue and the memory of the fake device, for its ops.
#pragma once

#include <ATen/core/Tensor.h>

#include <functional>
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
  std::vector<std::function<void()>> queue;
  bool capturing = false, capture_broken = false;
  std::vector<std::function<void()>> recorded;
};
State& state();

// Queues work, or records it.
void submit(std::function<void()> work);
// Runs what is queued, with the memory open.
void flush();
// Fails where a real capture would.
void not_in_a_capture(const char* what);
// The same bytes as a CPU tensor, for queued work: where they are now, whatever becomes of the
// view.
at::Tensor alias(const at::Tensor& tensor);

ops::DeviceTable table();
void release_scratch();  // of its kernels

}  // namespace train_sft::fake_device
