#include "train_sft/base/utf8.h"

#include <cstdint>
#include <cstring>

namespace train_sft {
namespace {

// Length of the well-formed character at p, 0 when there is none (RFC 3629, section 4).
size_t well_formed_length(const unsigned char* p, size_t left) {
  const unsigned char a = p[0];
  if (a < 0x80) return 1;
  if (a < 0xC2 || a > 0xF4) return 0;
  const size_t length = a < 0xE0 ? 2 : a < 0xF0 ? 3 : 4;
  if (left < length) return 0;
  unsigned char low = 0x80;
  unsigned char high = 0xBF;
  if (a == 0xE0) low = 0xA0;
  if (a == 0xED) high = 0x9F;  // surrogates
  if (a == 0xF0) low = 0x90;
  if (a == 0xF4) high = 0x8F;
  if (p[1] < low || p[1] > high) return 0;
  for (size_t i = 2; i < length; ++i) {
    if (!continues_character(static_cast<char>(p[i]))) return 0;
  }
  return length;
}

}  // namespace

std::optional<size_t> find_invalid_utf8(std::string_view text) {
  const auto* p = reinterpret_cast<const unsigned char*>(text.data());
  size_t i = 0;
  while (i < text.size()) {
    if (text.size() - i >= 8) {  // most text is ASCII: eight bytes at a time
      uint64_t word = 0;
      std::memcpy(&word, p + i, 8);
      if ((word & 0x8080808080808080ULL) == 0) {
        i += 8;
        continue;
      }
    }
    const size_t length = well_formed_length(p + i, text.size() - i);
    if (length == 0) return i;
    i += length;
  }
  return std::nullopt;
}

size_t valid_character_bytes(std::string_view text) {
  return well_formed_length(reinterpret_cast<const unsigned char*>(text.data()), text.size());
}

size_t utf8_length(unsigned char lead) {
  if (lead < 0xC0) return 1;
  return lead < 0xE0 ? 2 : lead < 0xF0 ? 3 : 4;
}

size_t count_characters(std::string_view text) {
  size_t count = 0;
  for (const char c : text) count += continues_character(c) ? 0 : 1;
  return count;
}

size_t character_offset(std::string_view text, size_t n) {
  size_t i = 0;
  while (i < text.size() && n > 0) {
    i += utf8_length(static_cast<unsigned char>(text[i]));
    --n;
  }
  return i < text.size() ? i : text.size();
}

}  // namespace train_sft
