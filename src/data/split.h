// Which records validate.
#pragma once

#include <cstdint>
#include <vector>

namespace train_sft {

// ⌈fraction × n⌉, forgiving the rounding of fraction itself (0.05 × 20 is 1).
uint64_t validation_count(uint64_t n, double fraction);

// True for the records of the validation side: whole groups of equal content in order of a keyed
// hash until the count is reached; a group that would pass it is skipped. Does not depend on the
// order of the records.
std::vector<bool> split_by_hash(const std::vector<uint64_t>& content_hashes, double fraction);

// The records that a fraction of a copy adds: the ⌊fraction × n + ½⌋ with the lowest keyed hash.
std::vector<bool> select_fraction(const std::vector<uint64_t>& content_hashes, double fraction);

}  // namespace train_sft
