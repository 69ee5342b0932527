// Accelerators by name, with the peak rates and memory that their makers publish.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace train_sft {

// In one direction.
struct DeviceLinks {
  double device_bytes_per_s = 0;   // of each device to the others of its node
  double adapter_bytes_per_s = 0;  // for each device, of its maker's server; 0: there is none
  std::string source;
};

struct DeviceRates {
  std::string name;         // "h100"
  std::string description;  // "NVIDIA H100 SXM"
  double bf16_flops = 0;    // per second, dense, fp32 accumulation; 0: not known
  double fp8_flops = 0;     // 0: has none
  double memory_bytes = 0;
  std::string source;  // the document that says so
  DeviceLinks links;

  double peak_flops(const std::string& precision) const;
};

// A device as its driver names it ("NVIDIA H100 80GB HBM3"), of so many bytes: with the rates of
// the table; of one that is not in it, or of a part of one (MIG), without.
DeviceRates rates_of_driver(const std::string& driver_name, uint64_t memory_bytes);

struct Devices {
  DeviceRates device;
  int64_t count = 1;
};

const std::vector<DeviceRates>& device_table();
// "h100", "h100x8", "8xh100". Throws UsageError naming the devices there are.
Devices parse_devices(const std::string& text);

}  // namespace train_sft
