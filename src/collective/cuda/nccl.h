// NCCL between the devices of a run's ranks, as c10d has it. Part of the CUDA plugin: nothing of
// the program links it.
#pragma once

#include <c10/util/intrusive_ptr.h>

#include <cstdint>
#include <torch/csrc/distributed/c10d/Backend.hpp>
#include <torch/csrc/distributed/c10d/Store.hpp>

// An ops::ConnectDevices. Each rank uses the device that is current when it
// makes its first call, so choose it before. The caller owns what it returns. Throws c10::Error.
extern "C" __attribute__((visibility("default"))) c10d::Backend* train_sft_connect_devices(
    const c10::intrusive_ptr<c10d::Store>& store, int rank, int size, int64_t timeout_ms);
