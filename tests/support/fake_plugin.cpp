// Plugins as a loader may find them: FAKE_VERSION, FAKE_TORCH and FAKE_DEVICES say what is odd, the
// environment's FAKE_GPU and FAKE_GPU_BYTES what device it has.
#include <torch/headeronly/version.h>

#include <cstdio>
#include <cstdlib>

#include "train_sft/ops/device_table.h"

#ifndef FAKE_VERSION
#define FAKE_VERSION train_sft::ops::kDeviceInterface
#endif
#ifndef FAKE_TORCH
#define FAKE_TORCH TORCH_VERSION
#endif
#ifndef FAKE_DEVICES
#define FAKE_DEVICES 1
#endif

namespace {

int count(char* why, uint64_t size) {
  if (FAKE_DEVICES == 0) std::snprintf(why, size, "the driver is too old");
  return FAKE_DEVICES;
}
const train_sft::ops::DeviceTable* open(int, char*, uint64_t) {
  static train_sft::ops::DeviceTable table;
  return &table;
}
void properties(int, train_sft::ops::DevicePlugin::Properties* out) {
  const char *name = std::getenv("FAKE_GPU"), *bytes = std::getenv("FAKE_GPU_BYTES");
  std::snprintf(out->name, sizeof out->name, "%s", name != nullptr ? name : "Fake 9000");
  out->major = 9;
  out->memory_bytes = bytes != nullptr ? std::strtoull(bytes, nullptr, 10) : uint64_t{8} << 30;
  out->bf16 = true;
}

}  // namespace

extern "C" const train_sft::ops::DevicePlugin* train_sft_device_plugin() {
  static train_sft::ops::DevicePlugin plugin;
  plugin.interface_version = FAKE_VERSION;
  plugin.torch_version = FAKE_TORCH;
  plugin.device_count = count;
  plugin.open = open;
  plugin.properties = properties;
  return &plugin;
}
