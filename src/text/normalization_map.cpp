#include "normalization_map.h"

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <vector>

#include "train_sft/base/error.h"

namespace train_sft {
namespace {

constexpr size_t kUnitBytes = 4;
constexpr uint32_t kBytes = 256;

// A unit of the double array: where its children are, which byte led to it, whether it ends a rule.
struct Unit {
  uint32_t bits;
  uint32_t offset() const { return bits >> 10 << ((bits & 1U << 9) >> 6); }
  uint32_t label() const { return bits & (1U << 31 | 0xFFU); }
  bool ends_a_rule() const { return (bits >> 8 & 1U) != 0; }
  uint32_t value() const { return bits & ((1U << 31) - 1); }
};

class Trie {
 public:
  explicit Trie(std::string_view bytes) : bytes_(bytes), size_(bytes.size() / kUnitBytes) {}

  // Whether every text stays inside, and ends rules only with values below `limit`.
  bool leads_below(size_t limit) const {
    if (size_ == 0) return false;
    std::vector<bool> seen(size_);
    std::vector<uint32_t> left = {0};
    seen[0] = true;
    while (!left.empty()) {
      const uint32_t place = left.back();
      left.pop_back();
      const Unit unit = at(place);
      const uint32_t children = place ^ unit.offset();
      if ((children | (kBytes - 1)) >= size_) return false;
      if (unit.ends_a_rule() && at(children).value() >= limit) return false;
      for (uint32_t byte = 0; byte < kBytes; ++byte) {
        const uint32_t child = children ^ byte;
        if (at(child).label() != byte || seen[child]) continue;
        seen[child] = true;
        left.push_back(child);
      }
    }
    return true;
  }

 private:
  Unit at(uint32_t place) const {
    Unit unit{};
    std::memcpy(&unit.bits, bytes_.data() + place * kUnitBytes, kUnitBytes);
    return unit;
  }

  std::string_view bytes_;
  size_t size_;
};

}  // namespace

void check_normalization_map(std::string_view map, const std::string& where) {
  if (map.empty()) return;
  uint32_t trie_bytes = 0;
  if (map.size() > kUnitBytes) std::memcpy(&trie_bytes, map.data(), kUnitBytes);
  map.remove_prefix(std::min(map.size(), kUnitBytes));
  const bool whole = trie_bytes < map.size() && map.back() == '\0' &&
                     Trie(map.substr(0, trie_bytes)).leads_below(map.size() - trie_bytes);
  if (!whole)
    throw DataError("{}: its normalisation rules (precompiled_charsmap) are damaged", where);
}

}  // namespace train_sft
