#include "byte_alphabet.h"

#include <array>
#include <cstdint>

#include "train_sft/base/utf8.h"
#include "unicode_classes.h"

namespace train_sft {
namespace {

struct Alphabet {
  std::array<uint32_t, 256> code{};   // of each byte
  std::array<int16_t, 0x144> byte{};  // of each code point, -1: none
  Alphabet() {
    byte.fill(-1);
    uint32_t next = 0x100;
    for (uint32_t b = 0; b < 256; ++b) {
      const bool printable = (b >= 0x21 && b <= 0x7E) || (b >= 0xA1 && b != 0xAD);
      code[b] = printable ? b : next++;
      byte[code[b]] = static_cast<int16_t>(b);
    }
  }
};

const Alphabet& alphabet() {
  static const Alphabet alphabet;
  return alphabet;
}

}  // namespace

std::optional<std::string> from_byte_alphabet(std::string_view word) {
  if (find_invalid_utf8(word)) return std::nullopt;
  const Alphabet& letters = alphabet();
  std::string bytes;
  for (size_t i = 0; i < word.size();) {
    const Character c = character_at(word, i);
    if (c.code >= letters.byte.size() || letters.byte[c.code] < 0) return std::nullopt;
    bytes += static_cast<char>(letters.byte[c.code]);
    i += c.bytes;
  }
  return bytes;
}

std::string to_byte_alphabet(std::string_view bytes) {
  std::string word;
  for (const char byte : bytes) {
    const uint32_t code = alphabet().code[static_cast<unsigned char>(byte)];
    if (code < 0x80) {
      word += static_cast<char>(code);
    } else {
      word += static_cast<char>(0xC0 | code >> 6);
      word += static_cast<char>(0x80 | (code & 0x3F));
    }
  }
  return word;
}

}  // namespace train_sft
