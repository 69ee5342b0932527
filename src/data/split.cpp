#include "split.h"

#include <algorithm>
#include <cmath>
#include <map>
#include <utility>

#include "train_sft/base/rng.h"

namespace train_sft {
namespace {

constexpr uint64_t kSplitKey = 0x76616c5f73706c69;   // "val_spli"
constexpr uint64_t kWeightKey = 0x646174615f776569;  // "data_wei"

}  // namespace

uint64_t validation_count(uint64_t n, double fraction) {
  return static_cast<uint64_t>(std::ceil(fraction * static_cast<double>(n) - 1e-9));
}

std::vector<bool> split_by_hash(const std::vector<uint64_t>& content_hashes, double fraction) {
  std::map<uint64_t, uint64_t> group_sizes;  // by keyed hash
  for (const uint64_t hash : content_hashes) ++group_sizes[mix64(hash ^ kSplitKey)];
  const uint64_t wanted = validation_count(content_hashes.size(), fraction);
  std::map<uint64_t, bool> chosen;
  uint64_t taken = 0;
  for (const auto& [key, size] : group_sizes) {
    if (taken == wanted) break;
    if (taken + size > wanted) continue;
    chosen.emplace(key, true);
    taken += size;
  }
  std::vector<bool> validation(content_hashes.size());
  for (size_t i = 0; i < content_hashes.size(); ++i) {
    validation[i] = chosen.contains(mix64(content_hashes[i] ^ kSplitKey));
  }
  return validation;
}

std::vector<bool> select_fraction(const std::vector<uint64_t>& content_hashes, double fraction) {
  std::vector<std::pair<uint64_t, size_t>> keys;
  keys.reserve(content_hashes.size());
  for (size_t i = 0; i < content_hashes.size(); ++i) {
    keys.emplace_back(mix64(content_hashes[i] ^ kWeightKey), i);
  }
  std::sort(keys.begin(), keys.end());
  const auto count =
      static_cast<size_t>(std::floor(fraction * static_cast<double>(keys.size()) + 0.5));
  std::vector<bool> selected(content_hashes.size());
  for (size_t i = 0; i < std::min(count, keys.size()); ++i) selected[keys[i].second] = true;
  return selected;
}

}  // namespace train_sft
