#include "packing.h"

#include <bit>
#include <cstddef>
#include <utility>

namespace train_sft {
namespace {

// A set of numbers up to a limit that finds its smallest member not below a bound.
class RoomSet {
 public:
  explicit RoomSet(uint32_t limit) : words_(limit / 64 + 1) {}
  void insert(uint32_t n) { words_[n / 64] |= uint64_t{1} << n % 64; }
  void erase(uint32_t n) { words_[n / 64] &= ~(uint64_t{1} << n % 64); }
  // limit + 1 or more when there is none.
  uint32_t lower_bound(uint32_t n) const {
    std::size_t word = n / 64;
    if (word >= words_.size()) return kNone;
    uint64_t bits = words_[word] & (~uint64_t{0} << n % 64);
    while (bits == 0) {
      if (++word == words_.size()) return kNone;
      bits = words_[word];
    }
    return static_cast<uint32_t>(word * 64) + static_cast<uint32_t>(std::countr_zero(bits));
  }
  static constexpr uint32_t kNone = ~uint32_t{0};

 private:
  std::vector<uint64_t> words_;
};

std::vector<uint32_t> longest_first(const std::vector<uint32_t>& lengths, uint32_t capacity) {
  std::vector<uint64_t> begin(capacity + 2);  // counting sort, stable
  for (const uint32_t length : lengths) ++begin[capacity - length + 1];
  for (std::size_t i = 1; i < begin.size(); ++i) begin[i] += begin[i - 1];
  std::vector<uint32_t> order(lengths.size());
  for (uint32_t e = 0; e < lengths.size(); ++e) order[begin[capacity - lengths[e]]++] = e;
  return order;
}

PackedRows flattened(const std::vector<std::vector<uint32_t>>& rows) {
  PackedRows packed;
  packed.offsets.push_back(0);
  for (const auto& row : rows) {
    packed.examples.insert(packed.examples.end(), row.begin(), row.end());
    packed.offsets.push_back(packed.examples.size());
  }
  return packed;
}

}  // namespace

PackedRows pack_best_fit(const std::vector<uint32_t>& lengths, uint32_t capacity) {
  std::vector<std::vector<uint32_t>> rows;
  std::vector<std::vector<uint32_t>> rows_with_room(capacity + 1);
  RoomSet rooms(capacity);
  for (const uint32_t example : longest_first(lengths, capacity)) {
    const uint32_t length = lengths[example];
    const uint32_t room = rooms.lower_bound(length);
    uint32_t row = 0;
    uint32_t left = 0;
    if (room == RoomSet::kNone) {
      row = static_cast<uint32_t>(rows.size());
      rows.emplace_back();
      left = capacity - length;
    } else {
      row = rows_with_room[room].back();
      rows_with_room[room].pop_back();
      if (rows_with_room[room].empty()) rooms.erase(room);
      left = room - length;
    }
    rows[row].push_back(example);
    if (left > 0) {
      rows_with_room[left].push_back(row);
      rooms.insert(left);
    }
  }
  return flattened(rows);
}

PackedRows pack_in_order(const std::vector<uint32_t>& lengths, uint32_t capacity) {
  PackedRows packed;
  packed.offsets.push_back(0);
  uint32_t used = 0;
  for (uint32_t example = 0; example < lengths.size(); ++example) {
    if (used > 0 && used + lengths[example] > capacity) {
      packed.offsets.push_back(example);
      used = 0;
    }
    packed.examples.push_back(example);
    used += lengths[example];
  }
  if (!packed.examples.empty()) packed.offsets.push_back(packed.examples.size());
  return packed;
}

}  // namespace train_sft
