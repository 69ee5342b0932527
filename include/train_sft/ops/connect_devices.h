// How a device's plugin joins the devices of a run's ranks. Beside ops/device_table.h: a plugin may
// be without.
#pragma once

#include <c10/util/intrusive_ptr.h>

#include <cstdint>

namespace c10d {
class Backend;
class Store;
}  // namespace c10d

namespace train_sft::ops {

// Makes the transport between the ranks' devices, each of which its rank has opened before. The
// caller owns what it returns. Throws c10::Error.
using ConnectDevices = c10d::Backend* (*)(const c10::intrusive_ptr<c10d::Store>& store, int rank,
                                          int size, int64_t timeout_ms);

// The name under which a plugin exports it, `extern "C"`.
inline constexpr const char* kConnectEntry = "train_sft_connect_devices";

}  // namespace train_sft::ops
