#include "train_sft/ops/device_table.h"

#include <c10/core/DeviceType.h>

#include <array>

#include "train_sft/base/error.h"

namespace train_sft::ops {
namespace {

using Tables = std::array<const DeviceTable*, at::COMPILE_TIME_MAX_DEVICE_TYPES>;

Tables& device_tables() {
  static Tables tables{};
  return tables;
}

}  // namespace

const DeviceTable* device_table(c10::DeviceType type) {
  const DeviceTable* table = device_tables().at(static_cast<size_t>(type));
  TRAIN_SFT_CHECK(table != nullptr, "no ops for tensors on {}", c10::DeviceTypeName(type));
  return table;
}

void register_device_table(c10::DeviceType type, const DeviceTable* table) {
  TRAIN_SFT_CHECK(type != c10::DeviceType::CPU, "the CPU computes without a table");
  device_tables().at(static_cast<size_t>(type)) = table;
}

}  // namespace train_sft::ops
