// Merging within a piece: of all neighbours that have a merge, the one of lowest rank (of equals
// the leftmost) is done, until there are none (Sennrich et al. 2016, algorithm 1).
#pragma once

#include <array>
#include <cstdint>
#include <string_view>
#include <vector>

namespace train_sft {

struct Merge {
  uint32_t rank;
  int32_t id;  // of what comes out
};

// (left id, right id) → Merge; open addressing.
class MergeTable {
 public:
  static constexpr Merge kNone{UINT32_MAX, -1};

  explicit MergeTable(size_t merges);
  void insert(int32_t left, int32_t right, Merge merge);  // the last insertion of a pair counts
  Merge find(int32_t left, int32_t right) const {
    const uint64_t key = key_of(left, right);
    for (size_t i = place_of(key);; i = (i + 1) & mask_) {
      if (slots_[i].key == key) return slots_[i].merge;
      if (slots_[i].key == kEmpty) return kNone;
    }
  }

 private:
  static constexpr uint64_t kEmpty = UINT64_MAX;
  struct Slot {
    uint64_t key = kEmpty;
    Merge merge = kNone;
  };
  static uint64_t key_of(int32_t left, int32_t right) {
    return uint64_t{static_cast<uint32_t>(left)} << 32 | static_cast<uint32_t>(right);
  }
  size_t place_of(uint64_t key) const {
    return static_cast<size_t>((key * 0x9E3779B97F4A7C15ULL) >> shift_);
  }

  std::vector<Slot> slots_;
  size_t mask_;
  unsigned shift_;
};

class BpeMerger {
 public:
  // byte_ids: the token of each byte; -1 where there is none: such bytes are left out.
  BpeMerger(const std::array<int32_t, 256>& byte_ids, MergeTable merges)
      : byte_ids_(byte_ids), merges_(std::move(merges)) {}
  void append(std::string_view piece, std::vector<int32_t>& ids) const;

  // The two ways in which append() does it; the same ids. Scanning is for pieces of at most
  // kScanBytes, for which it is faster.
  static constexpr size_t kScanBytes = 64;
  void merge_by_scan(std::string_view piece, std::vector<int32_t>& ids) const;
  void merge_by_heap(std::string_view piece, std::vector<int32_t>& ids) const;

 private:
  std::array<int32_t, 256> byte_ids_;
  MergeTable merges_;
};

}  // namespace train_sft
