#pragma once

#include <cstdint>
#include <vector>

namespace train_sft {

// Rows of whole examples: examples[offsets[r] … offsets[r+1]).
struct PackedRows {
  std::vector<uint64_t> offsets;
  std::vector<uint32_t> examples;
};

// Best-fit decreasing (Johnson 1974): longest first, each into the fullest row that has room.
// No length may exceed capacity. O(n + rows × capacity / 64).
PackedRows pack_best_fit(const std::vector<uint32_t>& lengths, uint32_t capacity);

// In order: each example into the current row while it fits, else into a new one.
PackedRows pack_in_order(const std::vector<uint32_t>& lengths, uint32_t capacity);

}  // namespace train_sft
