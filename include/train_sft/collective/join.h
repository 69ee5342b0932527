// From a place among processes to the collective that joins them.
#pragma once

#include <chrono>
#include <memory>

#include "train_sft/collective/collective.h"

namespace train_sft {

// Whether this program was built with c10d's Gloo.
bool has_gloo();

// Meets the other processes where `place` says, over torch's c10d with Gloo between hosts.
// `timeout` holds for this and for every collective after it. Throws UsageError where the program
// was built without Gloo, ResourceError when the others do not come.
std::unique_ptr<Collective> join_processes(const ProcessPlace& place, std::chrono::seconds timeout);

}  // namespace train_sft
