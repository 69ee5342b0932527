// Where to compute, as --device asks: the CPU, or a device whose plugin is loaded then and not
// before.
#pragma once

#include <c10/core/Device.h>

#include <cstdint>
#include <string>

#include "train_sft/ops/connect_devices.h"

namespace train_sft::ops {

// What there is on a machine.
struct DeviceSearch {
  std::string plugin;      // the plugin's path
  bool shows_gpu = false;  // a driver's device file, or its library, or a plugin that was named
  // Of the processes of a run on this machine this one, which takes the GPU of that number, or the
  // only one that it is shown.
  int local_rank = 0;
};
// The plugin stands beside the program; TRAIN_SFT_CUDA_PLUGIN names another.
DeviceSearch this_machine();

struct ChosenDevice {
  c10::Device device{c10::kCPU};
  std::string said;     // one line for the log; "" for a plain CPU
  std::string model{};  // "NVIDIA H200 (compute capability 9.0)"; "" for the CPU
  std::string name{};   // "NVIDIA H200", as its driver has it
  bool bf16 = false, fp8 = false;
  uint64_t memory_bytes = 0;
  ConnectDevices connect = nullptr;  // null: this plugin joins no processes
};

// "auto", "cpu", "cuda" or "cuda:N". The table of the device is registered. auto without a GPU that
// works is the CPU, and `said` why; cuda without one is a UsageError with the remedy. Once a
// process for a GPU: asking for another afterwards is an error.
ChosenDevice choose_device(const std::string& asked, const DeviceSearch& search = this_machine());

// How many GPUs choose_device() could take for "auto" or "cuda"; none is opened. 0: auto is the
// CPU.
int count_devices(const std::string& asked, const DeviceSearch& search = this_machine());

// Loads the plugin, and no more, where choose_device() may come to need it: torch asks for CUDA
// once, and whatever makes it do so must come after.
void load_early(const std::string& asked, const DeviceSearch& search = this_machine());

// For tests: what choose_device() finds for anything but "cpu" while it lives.
class DeviceOverride {
 public:
  explicit DeviceOverride(const ChosenDevice& device);
  ~DeviceOverride();
  DeviceOverride(const DeviceOverride&) = delete;
  DeviceOverride& operator=(const DeviceOverride&) = delete;

 private:
  ChosenDevice device_;
  const ChosenDevice* previous_;
};

}  // namespace train_sft::ops
