#include "strip.h"

#include "train_sft/base/utf8.h"

namespace train_sft {
namespace {

// str.isspace() of Python 3.
bool is_white_space(std::string_view character) {
  const auto byte = [&](size_t i) { return static_cast<unsigned char>(character[i]); };
  if (character.size() == 1)
    return (byte(0) >= 9 && byte(0) <= 13) || (byte(0) >= 28 && byte(0) <= 32);
  if (character.size() == 2) return byte(0) == 0xC2 && (byte(1) == 0x85 || byte(1) == 0xA0);
  if (character.size() != 3) return false;
  const unsigned code = (byte(0) & 0xFU) << 12 | (byte(1) & 0x3FU) << 6 | (byte(2) & 0x3FU);
  return code == 0x1680 || (code >= 0x2000 && code <= 0x200A) || code == 0x2028 || code == 0x2029 ||
         code == 0x202F || code == 0x205F || code == 0x3000;
}

}  // namespace

std::string_view stripped(std::string_view text, std::string_view characters, bool left,
                          bool right) {
  const auto goes = [&](std::string_view character) {
    if (characters.empty()) return is_white_space(character);
    return character.size() == 1 && characters.find(character[0]) != std::string_view::npos;
  };
  while (left && !text.empty()) {
    const auto first = text.substr(0, utf8_length(static_cast<unsigned char>(text[0])));
    if (!goes(first)) break;
    text.remove_prefix(first.size());
  }
  while (right && !text.empty()) {
    size_t begin = text.size() - 1;
    while (begin > 0 && continues_character(text[begin])) --begin;
    if (!goes(text.substr(begin))) break;
    text.remove_suffix(text.size() - begin);
  }
  return text;
}

}  // namespace train_sft
