// From Oniguruma's syntax (doc/RE of kkos/oniguruma) to PCRE2's (pcre2pattern(3)).
#include <array>
#include <optional>

#include "regex_splitter.h"
#include "train_sft/base/error.h"
#include "unicode_classes.h"

namespace train_sft {
namespace {

constexpr std::string_view kSpaceMembers =
    "\\x{9}-\\x{d}\\x{20}\\x{85}\\x{a0}\\x{1680}\\x{2000}-\\x{200a}\\x{2028}\\x{2029}\\x{202f}"
    "\\x{205f}\\x{3000}";

bool is_ascii_letter(char c) {
  return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z');
}
bool is_ascii_digit(char c) {
  return c >= '0' && c <= '9';
}
char lower(char c) {
  return c >= 'A' && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c;
}

bool is_general_category(std::string_view name) {
  static constexpr std::string_view kMajor = "LMNPSZC";
  static constexpr std::array<std::string_view, 7> kMinor = {"ultmo", "nce", "dlo",  "cdseifo",
                                                             "mcko",  "slp", "cfson"};
  if (name.empty() || name.size() > 2) return false;
  const size_t major = kMajor.find(name[0]);
  if (major == std::string_view::npos) return false;
  return name.size() == 1 || kMinor.at(major).find(name[1]) != std::string_view::npos;
}

class Translator {
 public:
  Translator(std::string_view pattern, const std::string& where)
      : pattern_(pattern), where_(where) {}

  std::string translate() {
    while (at_ < pattern_.size()) next();
    if (in_class_) refuse("a class that is not closed");
    return std::move(out_);
  }

 private:
  [[noreturn]] void refuse(std::string_view what) const {
    throw DataError("{}: the pattern {} has, at byte {}, {}, which is not implemented here", where_,
                    pattern_, at_, what);
  }
  char peek(size_t ahead = 0) const {
    return at_ + ahead < pattern_.size() ? pattern_[at_ + ahead] : '\0';
  }

  void next() {
    const char c = peek();
    if (c == '\\') return escape();
    if (in_class_) return class_character(c);
    switch (c) {
      case '[':
        return open_class();
      case '(':
        return open_group();
      case ')':
        if (ignore_case_depth_ == depth_) ignore_case_depth_ = 0;
        if (depth_ > 0) --depth_;
        return copy(1);
      case '{':
        return quantifier();
      case '^':
      case '$':
        refuse("an anchor");
      default:
        literal(c);
        return copy(1);
    }
  }

  void copy(size_t bytes) {
    out_ += pattern_.substr(at_, bytes);
    at_ += bytes;
  }

  // Where case does not count, Oniguruma takes "ss" for "ß", "ff" for a ligature and so on.
  void literal(char c) {
    if (ignore_case_depth_ > 0) {
      if (static_cast<unsigned char>(c) >= 0x80) refuse("a character beyond ASCII without case");
      for (const std::string_view pair : {"ss", "ff", "fi", "fl", "st"}) {
        if (lower(last_literal_) == pair[0] && lower(c) == pair[1]) refuse("a ligature's letters");
      }
    }
    last_literal_ = c;
  }

  void open_class() {
    in_class_ = true;
    copy(1);
    if (peek() == '^') copy(1);
    if (peek() == ']') refuse("']' as the first of a class");
  }
  void class_character(char c) {
    if (c == '[') refuse("a class within a class");
    if (c == '&' && peek(1) == '&') refuse("an intersection of classes");
    if (c == ']') in_class_ = false;
    copy(1);
  }

  void open_group() {
    ++depth_;
    last_literal_ = '\0';
    if (peek(1) != '?') return copy(1);
    for (const std::string_view kind : {"(?:", "(?=", "(?!", "(?>", "(?<=", "(?<!"}) {
      if (pattern_.substr(at_).starts_with(kind)) return copy(kind.size());
    }
    if (!pattern_.substr(at_).starts_with("(?i:")) refuse("a group of a kind");
    if (ignore_case_depth_ == 0) ignore_case_depth_ = depth_;
    copy(4);
  }

  void quantifier() {
    size_t end = at_ + 1;
    if (end >= pattern_.size() || !is_ascii_digit(pattern_[end])) refuse("'{' without a number");
    while (end < pattern_.size() && (is_ascii_digit(pattern_[end]) || pattern_[end] == ',')) ++end;
    if (end >= pattern_.size() || pattern_[end] != '}') refuse("'{' without '}'");
    copy(end + 1 - at_);
    if (peek() == '+' || peek() == '?' || peek() == '*') refuse("a quantifier of a quantifier");
  }

  void members(bool negated, std::string_view set) {
    if (in_class_) {
      if (negated) refuse("a negated set within a class");
      out_ += set;
    } else {
      out_ += negated ? "[^" : "[";
      out_ += set;
      out_ += ']';
    }
  }

  void escape() {
    const char c = peek(1);
    last_literal_ = '\0';
    if (c == '\0') refuse("a backslash at its end");
    if (c == 'p' || c == 'P') return property(c == 'P');
    if (c == 'x' || c == 'u') return code_point(c);
    if (c == 's' || c == 'S') {
      members(c == 'S', kSpaceMembers);
    } else if (c == 'd' || c == 'D') {
      members(c == 'D', "\\p{Nd}");
    } else if (c == 'v') {
      out_ += "\\x{b}";
    } else if (std::string_view("tnrfae").find(c) != std::string_view::npos) {
      return copy(2);
    } else if (is_ascii_letter(c) || is_ascii_digit(c) || static_cast<unsigned char>(c) >= 0x80) {
      refuse(fmt::format("the escape \\{}", c));
    } else {
      return copy(2);
    }
    at_ += 2;
  }

  void property(bool negated) {
    const size_t close = pattern_.find('}', at_);
    if (peek(2) != '{' || close == std::string_view::npos) refuse("\\p without {…}");
    std::string_view name = pattern_.substr(at_ + 3, close - at_ - 3);
    if (name.starts_with('^')) {
      negated = !negated;
      name.remove_prefix(1);
    }
    // Of other properties the two libraries know different sets under the same names.
    if (!is_general_category(name)) refuse(fmt::format("the property '{}'", name));
    members(negated, fmt::format("\\p{{{}}}{}", name,
                                 name == "L"   ? missing_members(CharClass::letter)
                                 : name == "N" ? missing_members(CharClass::number)
                                               : ""));
    at_ = close + 1;
  }

  void code_point(char kind) {
    const bool braces = kind == 'x' && peek(2) == '{';
    const size_t begin = at_ + (braces ? 3 : 2);
    const size_t most = braces ? 6 : kind == 'x' ? 2 : 4;
    size_t end = begin;
    while (end < pattern_.size() && end - begin < most && std::isxdigit(pattern_[end]) != 0) ++end;
    const std::string digits(pattern_.substr(begin, end - begin));
    if (digits.empty() || (!braces && digits.size() != most)) refuse("a malformed code point");
    if (braces && (end >= pattern_.size() || pattern_[end] != '}')) refuse("\\x{ without }");
    if (kind == 'x' && !braces && digits[0] >= '8') refuse("a single byte beyond ASCII");
    out_ += "\\x{" + digits + "}";
    at_ = end + (braces ? 1 : 0);
  }

  std::string_view pattern_;
  const std::string& where_;
  std::string out_;
  size_t at_ = 0;
  bool in_class_ = false;
  int depth_ = 0;
  int ignore_case_depth_ = 0;  // depth of the group (?i:, 0: none
  char last_literal_ = '\0';
};

}  // namespace

std::string pcre2_pattern(std::string_view oniguruma, const std::string& where) {
  return Translator(oniguruma, where).translate();
}

}  // namespace train_sft
