#include "split.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <tuple>
#include <utility>

#include "train_sft/base/rng.h"
#include "train_sft/base/signals.h"

namespace train_sft {
namespace {

constexpr uint64_t kSplitKey = 0x76616c5f73706c69;   // "val_spli"
constexpr uint64_t kWeightKey = 0x646174615f776569;  // "data_wei"
constexpr uint64_t kHeldAtOnce = uint64_t{1} << 24;  // keys

// Calls visit(first, end of range) for ranges of the 64-bit numbers, ascending, so many that each
// holds about kHeldAtOnce of n evenly spread keys at most. visit returns false to stop.
template <typename Visit>
void for_key_ranges(uint64_t n, Visit visit) {
  const uint64_t ranges = std::bit_ceil(n / kHeldAtOnce + 1);
  const int shift = 64 - std::countr_zero(ranges);
  for (uint64_t range = 0; range < ranges; ++range) {
    signals::throw_if_stopped();
    const auto holds = [=](uint64_t key) { return shift == 64 || key >> shift == range; };
    if (!visit(holds)) return;
  }
}

}  // namespace

uint64_t validation_count(uint64_t n, double fraction) {
  return static_cast<uint64_t>(std::ceil(fraction * static_cast<double>(n) - 1e-9));
}

ValidationChoice::ValidationChoice(uint64_t n, double fraction, const EachHash& each) {
  const uint64_t wanted = validation_count(n, fraction);
  uint64_t taken = 0;
  for_key_ranges(n, [&](const auto& holds) {
    std::vector<uint64_t> keys;
    each([&](uint64_t hash) {
      const uint64_t key = mix64(hash ^ kSplitKey);
      if (holds(key)) keys.push_back(key);
    });
    std::sort(keys.begin(), keys.end());
    for (size_t begin = 0, end = 0; begin < keys.size() && taken < wanted; begin = end) {
      while (end < keys.size() && keys[end] == keys[begin]) ++end;
      if (taken + (end - begin) > wanted) continue;
      keys_.push_back(keys[begin]);
      taken += end - begin;
    }
    return taken < wanted;
  });
}

bool ValidationChoice::contains(uint64_t content_hash) const {
  return std::binary_search(keys_.begin(), keys_.end(), mix64(content_hash ^ kSplitKey));
}

FractionChoice::FractionChoice(uint64_t n, double fraction, const EachHash& each) {
  const auto wanted =
      std::min(n, static_cast<uint64_t>(std::floor(fraction * static_cast<double>(n) + 0.5)));
  if (wanted == 0) return;
  uint64_t before = 0;  // in the ranges gone by
  for_key_ranges(n, [&](const auto& holds) {
    std::vector<std::pair<uint64_t, uint64_t>> keys;
    uint64_t index = 0;
    each([&](uint64_t hash) {
      const uint64_t key = mix64(hash ^ kWeightKey);
      if (holds(key)) keys.emplace_back(key, index);
      ++index;
    });
    if (before + keys.size() < wanted) {
      before += keys.size();
      return true;
    }
    const auto last = keys.begin() + static_cast<std::ptrdiff_t>(wanted - before - 1);
    std::nth_element(keys.begin(), last, keys.end());
    any_ = true;
    std::tie(last_key_, last_index_) = *last;
    return false;
  });
}

bool FractionChoice::contains(uint64_t content_hash, uint64_t index) const {
  return any_ &&
         std::pair(mix64(content_hash ^ kWeightKey), index) <= std::pair(last_key_, last_index_);
}

uint64_t count_duplicates(uint64_t n, const EachHash& each) {
  uint64_t duplicates = 0;
  for_key_ranges(n, [&](const auto& holds) {
    std::vector<uint64_t> hashes;
    each([&](uint64_t hash) {
      if (holds(hash)) hashes.push_back(hash);
    });
    std::sort(hashes.begin(), hashes.end());
    const auto distinct = std::unique(hashes.begin(), hashes.end()) - hashes.begin();
    duplicates += hashes.size() - static_cast<uint64_t>(distinct);
    return true;
  });
  return duplicates;
}

uint64_t count_common(uint64_t n, const EachHash& some, const EachHash& others) {
  uint64_t common = 0;
  for_key_ranges(n, [&](const auto& holds) {
    std::vector<uint64_t> contents;
    others([&](uint64_t hash) {
      if (holds(hash)) contents.push_back(hash);
    });
    std::sort(contents.begin(), contents.end());
    some([&](uint64_t hash) {
      if (holds(hash) && std::binary_search(contents.begin(), contents.end(), hash)) ++common;
    });
    return true;
  });
  return common;
}

}  // namespace train_sft
