// UTF-8 as RFC 3629 defines it: no overlong forms, no surrogates, nothing above U+10FFFF.
#pragma once

#include <cstddef>
#include <optional>
#include <string_view>

namespace train_sft {

// Byte offset of the first ill-formed sequence; nothing when all of text is well-formed.
std::optional<size_t> find_invalid_utf8(std::string_view text);
// Bytes of the well-formed character at the front of text, which is not empty; 0 when it is
// ill-formed.
size_t valid_character_bytes(std::string_view text);
// Whether the byte goes on with a character that began before it.
constexpr bool continues_character(char byte) {
  return (static_cast<unsigned char>(byte) & 0xC0) == 0x80;
}
// Bytes of the character that starts with this lead byte (1 for a stray continuation byte).
size_t utf8_length(unsigned char lead);
// Characters in well-formed text.
size_t count_characters(std::string_view text);
// Byte offset of character n of well-formed text (its size when there are no more than n).
size_t character_offset(std::string_view text, size_t n);

}  // namespace train_sft
