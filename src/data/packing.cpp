#include "packing.h"

#include <algorithm>
#include <bit>
#include <cstddef>
#include <numeric>
#include <optional>
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

PackedRows best_fit_decreasing(const std::vector<uint32_t>& lengths, uint32_t capacity) {
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

// Examples by length, taken away as they are placed.
class Stock {
 public:
  Stock(const std::vector<uint32_t>& lengths, uint32_t capacity)
      : by_length_(capacity + 1), left_(lengths.size()), longest_(capacity) {
    for (std::size_t e = lengths.size(); e-- > 0;) {
      by_length_[lengths[e]].push_back(static_cast<uint32_t>(e));
    }
  }
  bool empty() const { return left_ == 0; }
  uint32_t longest() {
    while (by_length_[longest_].empty()) --longest_;
    return longest_;
  }
  std::size_t count(uint32_t length) const { return by_length_[length].size(); }
  uint32_t take(uint32_t length) {
    const uint32_t example = by_length_[length].back();
    by_length_[length].pop_back();
    --left_;
    return example;
  }

 private:
  std::vector<std::vector<uint32_t>> by_length_;
  std::size_t left_;
  uint32_t longest_;
};

// The longer of two lengths in stock that together fill the room exactly; 0 when there are none.
uint32_t exact_pair(const Stock& stock, uint32_t room, uint32_t longest) {
  for (uint32_t x = std::min(longest, room - 1); 2 * x >= room && x > 0; --x) {
    const uint32_t y = room - x;
    if (stock.count(x) > 0 && stock.count(y) > (x == y ? 1U : 0U)) return x;
  }
  return 0;
}

// Row by row, longest first, but ending in one or two examples that fill the row exactly where some
// do. Wastes less than best fit where short examples are rare.
PackedRows exact_finish(const std::vector<uint32_t>& lengths, uint32_t capacity) {
  Stock stock(lengths, capacity);
  PackedRows packed;
  packed.offsets.push_back(0);
  while (!stock.empty()) {
    uint32_t room = capacity;
    while (room > 0 && !stock.empty()) {
      uint32_t length = std::min(stock.longest(), room);
      if (room < capacity && stock.count(room) == 0) {
        const uint32_t pair = exact_pair(stock, room, stock.longest());
        if (pair > 0) length = pair;
      }
      while (length > 0 && stock.count(length) == 0) --length;
      if (length == 0) break;
      packed.examples.push_back(stock.take(length));
      room -= length;
    }
    packed.offsets.push_back(packed.examples.size());
  }
  return packed;
}

// Which sums of lengths in stock a row can hold: lengths are offered longest first until the room
// is filled exactly, so that the shortest, which fit anywhere, are kept for later.
class SubsetSums {
 public:
  explicit SubsetSums(uint32_t capacity)
      : reached_(capacity / 64 + 1), fresh_(reached_.size()), last_(capacity + 1) {}

  void begin(uint32_t room) {
    room_ = room;
    words_ = room / 64 + 1;
    std::fill_n(reached_.begin(), words_, 0);
    reached_[0] = 1;
  }
  bool filled() const { return has(room_); }
  // One more example of this length; false when it reaches no new sum.
  bool offer(uint32_t length) {
    const std::size_t skipped = length / 64;
    work_ += words_ - skipped;
    for (std::size_t i = words_; i-- > skipped;) {
      uint64_t shifted = reached_[i - skipped] << length % 64;
      if (length % 64 != 0 && i > skipped) {
        shifted |= reached_[i - skipped - 1] >> (64 - length % 64);
      }
      fresh_[i] = shifted & ~reached_[i];
    }
    bool any = false;
    for (std::size_t i = skipped; i < words_; ++i) {
      reached_[i] |= fresh_[i];
      for (uint64_t bits = fresh_[i]; bits != 0; bits &= bits - 1) {
        const std::size_t sum = i * 64 + static_cast<std::size_t>(std::countr_zero(bits));
        if (sum <= room_) last_[sum] = length;
        any = true;
      }
    }
    return any;
  }
  // The lengths of the largest sum, the shortest first.
  std::vector<uint32_t> best() const {
    uint32_t sum = room_;
    while (!has(sum)) --sum;
    std::vector<uint32_t> lengths;
    for (; sum > 0; sum -= last_[sum]) lengths.push_back(last_[sum]);
    return lengths;
  }
  uint64_t work() const { return work_; }  // words looked at

 private:
  bool has(uint32_t sum) const { return (reached_[sum / 64] >> sum % 64 & 1) != 0; }

  std::vector<uint64_t> reached_, fresh_;
  std::vector<uint32_t> last_;  // the length that first reached a sum
  uint32_t room_ = 0;
  std::size_t words_ = 0;
  uint64_t work_ = 0;
};

// Row by row: the longest example left, and of the others those that fill the row best, long ones
// before short ones. Wastes least where lengths are alike. Empty when it would take too long.
std::optional<PackedRows> longest_exact(const std::vector<uint32_t>& lengths, uint32_t capacity) {
  constexpr uint64_t kMostWork = uint64_t{1} << 31;  // some seconds
  Stock stock(lengths, capacity);
  SubsetSums sums(capacity);
  PackedRows packed;
  packed.offsets.push_back(0);
  while (!stock.empty()) {
    if (sums.work() > kMostWork) return std::nullopt;
    const uint32_t longest = stock.longest();
    packed.examples.push_back(stock.take(longest));
    const uint32_t room = capacity - longest;
    sums.begin(room);
    for (uint32_t length = std::min(longest, room); length > 0 && !sums.filled(); --length) {
      const std::size_t most = std::min<std::size_t>(stock.count(length), room / length);
      for (std::size_t i = 0; i < most && !sums.filled() && sums.offer(length); ++i) {
      }
    }
    for (const uint32_t length : sums.best()) packed.examples.push_back(stock.take(length));
    packed.offsets.push_back(packed.examples.size());
  }
  return packed;
}

}  // namespace

PackedRows pack_best_fit(const std::vector<uint32_t>& lengths, uint32_t capacity) {
  PackedRows best = best_fit_decreasing(lengths, capacity);
  const uint64_t tokens = std::accumulate(lengths.begin(), lengths.end(), uint64_t{0});
  const uint64_t fewest = (tokens + capacity - 1) / capacity;
  const auto keep_if_fewer = [&](std::optional<PackedRows> other) {
    if (other && other->offsets.size() < best.offsets.size()) best = std::move(*other);
  };
  if (best.offsets.size() - 1 > fewest) keep_if_fewer(exact_finish(lengths, capacity));
  if (best.offsets.size() - 1 > fewest) keep_if_fewer(longest_exact(lengths, capacity));
  return best;
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
