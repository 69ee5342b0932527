// What pre-tokenizers distinguish: letters, numbers, whitespace, the rest. Of well-formed UTF-8.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string_view>
#include <vector>

#include "train_sft/base/utf8.h"

namespace train_sft {

inline constexpr uint32_t kCodes = 0x110000;  // of Unicode

// The four values of a character; a letter is never a number.
enum class CharClass : uint8_t { other = 0, letter = 1, number = 2, space = 3 };

struct Character {
  uint32_t code;
  uint32_t bytes;
};

// text[at] begins a well-formed character.
inline Character character_at(std::string_view text, size_t at) {
  const auto byte = [&](size_t i) {
    return static_cast<uint32_t>(static_cast<unsigned char>(text[at + i]));
  };
  const uint32_t a = byte(0);
  if (a < 0x80) return {a, 1};
  if (a < 0xE0) return {(a & 0x1F) << 6 | (byte(1) & 0x3F), 2};
  if (a < 0xF0) return {(a & 0x0F) << 12 | (byte(1) & 0x3F) << 6 | (byte(2) & 0x3F), 3};
  return {(a & 0x07) << 18 | (byte(1) & 0x3F) << 12 | (byte(2) & 0x3F) << 6 | (byte(3) & 0x3F), 4};
}

// Where the character before text[end] begins; end > 0.
inline size_t character_before(std::string_view text, size_t end) {
  do --end;
  while (end > 0 && continues_character(text[end]));
  return end;
}

// Classes of all code points, in pages of 256 that equal pages share.
class CharClasses {
 public:
  static const CharClasses& get();
  CharClass of(uint32_t code) const { return pages_[page_of_[code >> 8]][code & 0xFF]; }
  // Numbers as the Digits step sees them.
  bool is_digit(uint32_t code) const;

 private:
  CharClasses();
  struct Page {
    CharClass classes[256];
    const CharClass& operator[](size_t i) const { return classes[i]; }
  };
  std::vector<uint16_t> page_of_;
  std::vector<Page> pages_;
};

}  // namespace train_sft
