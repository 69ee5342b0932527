// From a place among processes to the collective that joins them.
#pragma once

#include <c10/util/intrusive_ptr.h>

#include <chrono>
#include <cstdint>
#include <memory>

#include "train_sft/collective/collective.h"

namespace c10d {
class Backend;
class Store;
}  // namespace c10d

namespace train_sft {

// The transport between the ranks' devices, by a function that the CUDA plugin exports
// (src/collective/cuda/nccl.h). The caller owns what it returns.
using ConnectDevices = c10d::Backend* (*)(const c10::intrusive_ptr<c10d::Store>& store, int rank,
                                          int size, int64_t timeout_ms);

// Whether this program was built with c10d's Gloo.
bool has_gloo();

// Meets the other processes where `place` says, over torch's c10d: Gloo between hosts and, for
// tensors on devices, what `connect` gives. `timeout` holds for this and for every collective after
// it. Throws UsageError where the program was built without Gloo, ResourceError when the others do
// not come.
std::unique_ptr<Collective> join_processes(const ProcessPlace& place, std::chrono::seconds timeout,
                                           ConnectDevices connect = nullptr);

}  // namespace train_sft
