#pragma once

#include <cstdint>

namespace train_sft {

uint64_t resident_bytes();          // of this process now
uint64_t anonymous_bytes();         // of them, what no file backs: the system cannot drop it
uint64_t peak_resident_bytes();     // its high-water mark
uint64_t available_memory_bytes();  // what the machine or the cgroup allows, whichever is less

}  // namespace train_sft
