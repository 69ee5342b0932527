#pragma once

#include <cstdint>

namespace train_sft {

uint64_t resident_bytes();          // of this process now
uint64_t anonymous_bytes();         // of them, what no file backs: the system cannot drop it
uint64_t peak_resident_bytes();     // its high-water mark
uint64_t available_memory_bytes();  // what the machine or the cgroup allows, whichever is less

// Gives the whole pages within a block of allocated memory back to the system: they count for
// nothing until they are touched again, and are zeros then. false: nothing was done.
struct MemoryBlock {
  char* begin;
  uint64_t bytes;
};
MemoryBlock whole_pages(void* begin, uint64_t bytes);
bool give_back(MemoryBlock pages);

// Zeros in memory that the system provides as it is touched, for a large block in pages of 2 MiB
// where it has them: touching it page by page would cost seconds a GB on some machines. nullptr
// when there is no memory; aligned to a page at least. For free_pages().
void* allocate_zero_pages(uint64_t bytes);
void free_pages(void* begin);

}  // namespace train_sft
