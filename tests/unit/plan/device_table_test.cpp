#include "train_sft/plan/device_table.h"

#include <gtest/gtest.h>

namespace train_sft {
namespace {

TEST(RatesOfDriverTest, WhatDriversCallADeviceIsFoundInTheTable) {
  const struct {
    const char* driver;
    double gigabytes;
    const char* name;
  } known[] = {{"NVIDIA H100 80GB HBM3", 85, "h100"},
               {"NVIDIA H100 PCIe", 85, "h100_pcie"},
               {"NVIDIA H200", 150, "h200"},
               {"NVIDIA B200", 190, "b200"},
               {"NVIDIA A100-SXM4-80GB", 85, "a100"},
               {"NVIDIA A100-SXM4-40GB", 42, "a100_40"},
               {"NVIDIA A100-PCIE-40GB", 42, "a100_40"},
               {"NVIDIA L4", 24, "l4"},
               {"NVIDIA L40S", 48, "l40s"},
               {"NVIDIA A10", 24, "a10"},
               {"NVIDIA GeForce RTX 3090", 25, "rtx3090"},
               {"NVIDIA GeForce RTX 4090", 25, "rtx4090"}};
  for (const auto& [driver, gigabytes, name] : known) {
    const DeviceRates rates = rates_of_driver(driver, static_cast<uint64_t>(gigabytes * 1e9));
    EXPECT_EQ(rates.name, name) << driver;
    EXPECT_EQ(rates.description, driver);
    EXPECT_EQ(rates.memory_bytes, gigabytes * 1e9) << "its own, not the data sheet's";
    EXPECT_EQ(rates.bf16_flops, parse_devices(name).device.bf16_flops);
  }
}

TEST(ParseDevicesTest, ANameWithAnXAndDigitsIsNoCount) {
  EXPECT_EQ(parse_devices("rtx3090").count, 1);
  EXPECT_EQ(parse_devices("rtx4090x2").count, 2);
  EXPECT_EQ(parse_devices("2xrtx4090").device.name, "rtx4090");
  EXPECT_EQ(parse_devices("H100x8").count, 8);
}

TEST(RatesOfDriverTest, WhatIsLikeOneOfTheTableIsNotTakenForIt) {
  for (const char* driver :
       {"NVIDIA H100 80GB HBM3 MIG 1g.10gb", "NVIDIA H100 NVL", "NVIDIA H200 NVL", "NVIDIA A10G",
        "NVIDIA L40", "NVIDIA GeForce RTX 3090 Ti", "NVIDIA GeForce RTX 4090 D",
        "NVIDIA GeForce RTX 4090 Laptop GPU", "NVIDIA GeForce RTX 5090", "Tesla V100-SXM2-16GB",
        ""}) {
    const DeviceRates rates = rates_of_driver(driver, 1000);
    EXPECT_EQ(rates.name, "") << driver;
    EXPECT_EQ(rates.peak_flops("bf16"), 0) << driver;
    EXPECT_EQ(rates.memory_bytes, 1000);
  }
}

}  // namespace
}  // namespace train_sft
