#include "train_sft/base/utf8.h"

#include <gtest/gtest.h>

#include <string>

namespace train_sft {
namespace {

TEST(Utf8Test, WellFormedTextHasNoInvalidByte) {
  EXPECT_EQ(find_invalid_utf8(""), std::nullopt);
  EXPECT_EQ(find_invalid_utf8("plain text of more than eight bytes"), std::nullopt);
  EXPECT_EQ(find_invalid_utf8("\xC3\xA9\xE2\x82\xAC\xF0\x9F\x98\x80\xF4\x8F\xBF\xBF"),
            std::nullopt);
}

TEST(Utf8Test, OffsetOfTheFirstIllFormedSequence) {
  const struct {
    std::string text;
    size_t offset;
  } rows[] = {
      {"abc\xFF", 3},       {"12345678\x80", 8}, {"\xC0\xAF", 0},          // overlong
      {"a\xE0\x80\x80", 1}, {"\xED\xA0\x80", 0}, {"\xF4\x90\x80\x80", 0},  // surrogate, too high
      {"ab\xE2\x82", 2},    {"\xF0\x9F\x98", 0}, {"\xC3(", 0},             // cut short
  };
  for (const auto& row : rows) EXPECT_EQ(find_invalid_utf8(row.text), row.offset) << row.text;
}

TEST(Utf8Test, CharactersAreCountedAndFound) {
  const std::string text = "a\xC3\xA9\xF0\x9F\x98\x80z";
  EXPECT_EQ(count_characters(text), 4U);
  EXPECT_EQ(character_offset(text, 2), 3U);
  EXPECT_EQ(character_offset(text, 3), 7U);
  EXPECT_EQ(character_offset(text, 9), text.size());
}

}  // namespace
}  // namespace train_sft
