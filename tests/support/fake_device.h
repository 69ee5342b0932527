// A device made of host memory, behind the seam that the GPU stands behind (ops/device_table.h), so
// that what runs on a device is tested without one:
// - its memory can be touched by its queued work alone: the host faults on it;
// - work is queued and runs when somebody waits, so that what reads too early, or leaves something
//   of the host's to be read later, goes wrong;
// - a graph is the recorded calls with the numbers they were given, so that a number that varies
//   from replay to replay and is not in device memory goes wrong;
// - the n-th allocation or capture fails when asked.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>

namespace train_sft::fake_device {

// What torch takes it for: its PrivateUse1 in tests (fake_device_type.cpp); in a plugin
// (fake_device_plugin.cpp) CUDA, which nothing else in that process is, and as it was opened.
extern const c10::DeviceType kType;
extern c10::Device kDevice;

struct Counts {
  int64_t allocations = 0, bytes = 0, peak_bytes = 0;  // bytes: held now
  // Of the host for the device: with nothing queued behind what it waits for, so that the device
  // idles until the host is back; and with more queued, for what came before that.
  int64_t waits = 0, waits_behind = 0;
  int64_t uploads = 0, calls = 0;                 // calls: of ops, eager or recorded
  int64_t captures = 0, replays = 0, graphs = 0;  // graphs: that exist now
};

// Registers the device with torch and the ops' table while it lives; one at a time.
class Device {
 public:
  Device();
  ~Device();
  Device(const Device&) = delete;
  Device& operator=(const Device&) = delete;

  const Counts& counts() const;
  // Fails that allocation from now on (1: the next) and `times` − 1 after it.
  void fail_allocation(int64_t number, int64_t times = 1);
  void fail_capture(int64_t number, int64_t times = 1);
  void fail_replay(int64_t number, int64_t times = 1);
  void limit_bytes(int64_t bytes);  // an allocation beyond fails; 0: no limit
  void wait();
};

// A copy in host memory.
at::Tensor on_host(const at::Tensor& tensor);

}  // namespace train_sft::fake_device
