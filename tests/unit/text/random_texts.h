// Texts that pre-tokenizers find hard: whitespace runs, contractions, digits, combining marks,
// letters of many scripts, characters of all planes. Text n is always the same.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "train_sft/base/rng.h"

namespace train_sft {

inline std::string utf8_of(uint32_t c) {
  const auto byte = [](uint32_t value) { return static_cast<char>(value); };
  const auto tail = [&](unsigned shift) { return byte(0x80 | (c >> shift & 63)); };
  if (c < 0x80) return {byte(c)};
  if (c < 0x800) return {byte(0xC0 | c >> 6), tail(0)};
  if (c < 0x10000) return {byte(0xE0 | c >> 12), tail(6), tail(0)};
  return {byte(0xF0 | c >> 18), tail(12), tail(6), tail(0)};
}

inline std::string random_unicode_text(uint64_t number) {
  static const std::vector<std::string> kParts = {" ",
                                                  "  ",
                                                  "    ",
                                                  "\n",
                                                  "\n\n",
                                                  "\t",
                                                  "\r\n",
                                                  "\v",
                                                  "a",
                                                  "ab",
                                                  "aa",
                                                  "the",
                                                  " the",
                                                  "'s",
                                                  "'S",
                                                  "'LL",
                                                  "'re",
                                                  "\u017F",
                                                  "'\u017F",
                                                  "don't",
                                                  "!",
                                                  "?!",
                                                  "...",
                                                  "1",
                                                  "1234",
                                                  "\u0663",
                                                  "\u00BD",
                                                  "e\u0301",
                                                  "\u212B",
                                                  "\u0958",
                                                  "\u1112\u1161\u11AB",
                                                  "\u00A0",
                                                  "\u3000",
                                                  "\u180E",
                                                  "\u2028",
                                                  "\u0085",
                                                  "<|end|>",
                                                  "<|user|>",
                                                  "\U0001F469\u200D\U0001F467",
                                                  "\uFEFF",
                                                  "\u4F60\u597D",
                                                  std::string(1, '\0'),
                                                  "_"};
  const CounterRng rng(11, number);
  std::string text;
  const uint64_t length = rng.bits(0) % 40;
  for (uint64_t i = 0; i < length; ++i) {
    const uint64_t pick = rng.bits(2 * i + 2);
    if (rng.bits(2 * i + 1) % 5 != 0) {
      text += kParts[pick % kParts.size()];
    } else {
      const auto c = static_cast<uint32_t>(pick % 0x110000);
      text += utf8_of(c >= 0xD800 && c < 0xE000 ? 0xFFFE : c);
    }
  }
  return text;
}

}  // namespace train_sft
