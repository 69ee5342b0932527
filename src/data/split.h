// Which records validate, and which a fraction of a copy adds. Both choose by keyed hashes of the
// content, whatever the order of the records; hashes are visited several times rather than held, so
// that memory stays bounded for any number of records.
#pragma once

#include <cstdint>
#include <functional>
#include <vector>

namespace train_sft {

// ⌈fraction × n⌉, forgiving the rounding of fraction itself (0.05 × 20 is 1).
uint64_t validation_count(uint64_t n, double fraction);

// Calls the visitor with the content hash of each record, in order, the same at every call.
using HashVisitor = std::function<void(uint64_t hash)>;
using EachHash = std::function<void(const HashVisitor&)>;

// The contents of the validation side: whole groups of equal content in order of a keyed hash until
// the count is reached; a group that would pass it is skipped.
class ValidationChoice {
 public:
  ValidationChoice() = default;
  ValidationChoice(uint64_t n, double fraction, const EachHash& each);
  bool contains(uint64_t content_hash) const;

 private:
  std::vector<uint64_t> keys_;  // ascending
};

// Of n records the ⌊fraction × n + ½⌋ with the lowest keyed hash, the earlier ones of equal
// content.
class FractionChoice {
 public:
  FractionChoice(uint64_t n, double fraction, const EachHash& each);
  // `index` counts the records that `each` visits.
  bool contains(uint64_t content_hash, uint64_t index) const;

 private:
  bool any_ = false;
  uint64_t last_key_ = 0, last_index_ = 0;
};

// How many records have the content of an earlier one.
uint64_t count_duplicates(uint64_t n, const EachHash& each);
// How many of `some` have a content that occurs among `others`.
uint64_t count_common(uint64_t n, const EachHash& some, const EachHash& others);

}  // namespace train_sft
