// Ids of pieces seen lately. Pieces of text repeat (Zipf's law); most are found here and not merged
// again. One cache a thread, of fixed size: no lock, and nothing grows with the corpus. A piece has
// one place; a newcomer takes it over.
#pragma once

#include <xxhash.h>

#include <array>
#include <cstdint>
#include <cstring>
#include <span>
#include <string_view>
#include <vector>

namespace train_sft {

class PieceCache {
 public:
  static constexpr size_t kMaxBytes = 25;
  static constexpr size_t kMaxIds = 8;

  static PieceCache& of_this_thread() {
    thread_local PieceCache cache;
    return cache;
  }

  struct alignas(64) Slot {
    uint32_t tokenizer = 0;  // 0: empty
    uint8_t bytes = 0;
    uint8_t count = 0;
    std::array<char, kMaxBytes + 1> piece;
    std::array<int32_t, kMaxIds> ids;

    bool holds(std::string_view text, uint32_t of) const {
      return tokenizer == of && bytes == text.size() &&
             std::memcmp(piece.data(), text.data(), text.size()) == 0;
    }
    void put(std::string_view text, uint32_t of, std::span<const int32_t> with) {
      tokenizer = of;
      bytes = static_cast<uint8_t>(text.size());
      count = static_cast<uint8_t>(with.size());
      std::memcpy(piece.data(), text.data(), text.size());
      std::memcpy(ids.data(), with.data(), with.size_bytes());
    }
  };
  static_assert(sizeof(Slot) == 64);

  // The place of a piece of at most kMaxBytes. tokenizer: a number of its own for each, from 1 on.
  Slot& slot(std::string_view piece, uint32_t tokenizer) {
    return slots_[XXH3_64bits_withSeed(piece.data(), piece.size(), tokenizer) % kSlots];
  }

 private:
  static constexpr size_t kSlots = size_t{1} << 15;  // 2 MiB
  PieceCache() : slots_(kSlots) {}
  std::vector<Slot> slots_;
};

}  // namespace train_sft
