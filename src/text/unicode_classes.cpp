#include "unicode_classes.h"

#include <algorithm>
#include <cstring>
#include <span>

#include "unicode_ranges.h"

namespace train_sft {
namespace {

// The property White_Space (PropList.txt), which Oniguruma's \s is.
constexpr CodeRange kSpaces[] = {
    {0x9, 0xD},       {0x20, 0x20},     {0x85, 0x85},     {0xA0, 0xA0},     {0x1680, 0x1680},
    {0x2000, 0x200A}, {0x2028, 0x2029}, {0x202F, 0x202F}, {0x205F, 0x205F}, {0x3000, 0x3000}};

void mark(std::vector<CharClass>& classes, std::span<const CodeRange> ranges, CharClass value) {
  for (const CodeRange& range : ranges) {
    std::fill(classes.begin() + range.first, classes.begin() + range.last + 1, value);
  }
}

}  // namespace

CharClasses::CharClasses() : page_of_(kCodes / 256) {
  std::vector<CharClass> classes(kCodes, CharClass::other);
  mark(classes, kLetters, CharClass::letter);
  mark(classes, kNumbers, CharClass::number);
  mark(classes, kSpaces, CharClass::space);
  for (size_t page = 0; page < page_of_.size(); ++page) {
    const CharClass* begin = classes.data() + page * 256;
    const auto same = std::find_if(pages_.begin(), pages_.end(), [&](const Page& seen) {
      return std::memcmp(seen.classes, begin, sizeof seen.classes) == 0;
    });
    page_of_[page] = static_cast<uint16_t>(same - pages_.begin());
    if (same != pages_.end()) continue;
    pages_.emplace_back();
    std::memcpy(pages_.back().classes, begin, sizeof pages_.back().classes);
  }
}

const CharClasses& CharClasses::get() {
  static const CharClasses classes;
  return classes;
}

bool CharClasses::is_digit(uint32_t code) const {
  if (of(code) == CharClass::number) return true;
  return std::any_of(std::begin(kNewerNumbers), std::end(kNewerNumbers),
                     [&](const CodeRange& r) { return code >= r.first && code <= r.last; });
}

}  // namespace train_sft
