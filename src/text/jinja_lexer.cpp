#include "jinja_lexer.h"

#include <algorithm>
#include <array>
#include <cctype>

#include "train_sft/base/error.h"

namespace train_sft::jinja {
namespace {

using Kind = Token::Kind;
constexpr size_t kLongestSource = size_t{1} << 16;

bool is_digit(char c) {
  return c >= '0' && c <= '9';
}
bool is_name_start(char c) {
  return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_';
}
bool is_space(char c) {
  return c == ' ' || (c >= '\t' && c <= '\r');
}

class Lexer {
 public:
  explicit Lexer(std::string_view source) : source_(source) {
    if (source.size() > kLongestSource) {
      throw DataError("a chat template of {} bytes; the longest allowed has {}", source.size(),
                      kLongestSource);
    }
    // Jinja drops one newline at the end of a template.
    if (source_.ends_with('\n')) source_.remove_suffix(1);
  }

  std::vector<Token> run() {
    while (at_ < source_.size()) {
      const size_t tag = next_tag(at_);
      add_text(tag);
      if (tag == std::string_view::npos) break;
      read_tag(tag);
    }
    add(Kind::end, "");
    return std::move(tokens_);
  }

 private:
  [[noreturn]] void fail(const std::string& what) const {
    throw DataError("chat template, line {}: {}", line_at(at_), what);
  }
  size_t line_at(size_t at) const {
    return 1 +
           static_cast<size_t>(std::count(
               source_.begin(),
               source_.begin() + static_cast<std::ptrdiff_t>(std::min(at, source_.size())), '\n'));
  }
  void add(Kind kind, std::string text) {
    tokens_.push_back({kind, std::move(text), line_at(at_)});
  }

  size_t next_tag(size_t from) const {
    for (size_t at = source_.find('{', from); at != std::string_view::npos;
         at = source_.find('{', at + 1)) {
      if (at + 1 == source_.size()) break;
      const char next = source_[at + 1];
      if (next == '{' || next == '%' || next == '#') return at;
    }
    return std::string_view::npos;
  }

  // Text up to the tag, with white space taken away on both sides as the tags there ask.
  void add_text(size_t tag) {
    std::string_view text = source_.substr(at_, tag == std::string_view::npos ? tag : tag - at_);
    const char mark =
        tag == std::string_view::npos || tag + 2 >= source_.size() ? '\0' : source_[tag + 2];
    if (strip_next_) {
      const size_t first = std::find_if_not(text.begin(), text.end(), is_space) - text.begin();
      text.remove_prefix(first);
    } else if (trim_newline_ && text.starts_with('\n')) {
      text.remove_prefix(1);
    }
    if (mark == '-') {
      while (!text.empty() && is_space(text.back())) text.remove_suffix(1);
    } else if (tag != std::string_view::npos && source_[tag + 1] != '{' && mark != '+') {
      const size_t last = text.find_last_not_of(" \t");
      const size_t line = last == std::string_view::npos ? 0 : last + 1;
      const bool whole_line = line > 0 ? text[line - 1] == '\n' : begins_line(text);
      if (whole_line) text = text.substr(0, line);
    }
    strip_next_ = trim_newline_ = false;
    if (!text.empty()) add(Kind::text, std::string(text));
  }
  // Whether what is left of a text stands at the beginning of a line of the source.
  bool begins_line(std::string_view text) const {
    const auto begin = static_cast<size_t>(text.data() - source_.data());
    return begin == 0 || source_[begin - 1] == '\n';
  }

  void read_tag(size_t tag) {
    at_ = tag + 2;
    const char type = source_[tag + 1];
    if (type == '#') {
      const size_t end = source_.find("#}", at_);
      if (end == std::string_view::npos) fail("a comment without an end");
      strip_next_ = source_[end - 1] == '-';
      trim_newline_ = source_[end - 1] != '+';
      at_ = end + 2;
      return;
    }
    if (at_ < source_.size() && (source_[at_] == '-' || source_[at_] == '+')) ++at_;
    const bool output = type == '{';
    add(output ? Kind::begin_output : Kind::begin_block, "");
    const std::string_view end = output ? "}}" : "%}";
    int depth = 0;
    while (true) {
      while (at_ < source_.size() && is_space(source_[at_])) ++at_;
      if (at_ >= source_.size()) fail("a tag without an end");
      const std::string_view rest = source_.substr(at_);
      const bool marked = (rest[0] == '-' || rest[0] == '+') && rest.substr(1).starts_with(end);
      if (depth == 0 && (marked || rest.starts_with(end))) {
        strip_next_ = rest[0] == '-';
        trim_newline_ = !output && rest[0] != '+';
        add(output ? Kind::end_output : Kind::end_block, "");
        at_ += end.size() + (marked ? 1 : 0);
        return;
      }
      if (rest[0] == '{' || rest[0] == '(' || rest[0] == '[') ++depth;
      if (rest[0] == '}' || rest[0] == ')' || rest[0] == ']') --depth;
      read_token(rest);
    }
  }

  void read_token(std::string_view rest) {
    const char c = rest[0];
    if (c == '\'' || c == '"') {
      read_string(c);
      return;
    }
    size_t end = 0;
    if (is_name_start(c)) {
      while (end < rest.size() && (is_name_start(rest[end]) || is_digit(rest[end]))) ++end;
      add(Kind::name, std::string(rest.substr(0, end)));
    } else if (is_digit(c)) {
      while (end < rest.size() && is_digit(rest[end])) ++end;
      const bool point = end + 1 < rest.size() && rest[end] == '.' && is_digit(rest[end + 1]);
      if (point) ++end;
      while (point && end < rest.size() && is_digit(rest[end])) ++end;
      if (end > 18) fail("a number that is too long");
      add(point ? Kind::number : Kind::integer, std::string(rest.substr(0, end)));
    } else {
      constexpr std::array<std::string_view, 6> pairs = {"==", "!=", "<=", ">=", "//", "**"};
      const bool two = std::any_of(pairs.begin(), pairs.end(),
                                   [&](std::string_view p) { return rest.starts_with(p); });
      if (!two && std::string_view("+-*/%~|.,:()[]{}=<>").find(c) == std::string_view::npos) {
        fail(fmt::format("unexpected '{}'", c));
      }
      end = two ? 2 : 1;
      add(Kind::symbol, std::string(rest.substr(0, end)));
    }
    at_ += end;
  }

  void read_string(char quote) {
    std::string text;
    for (++at_; at_ < source_.size() && source_[at_] != quote; ++at_) {
      if (source_[at_] != '\\' || at_ + 1 >= source_.size()) {
        text += source_[at_];
        continue;
      }
      const char escaped = source_[++at_];
      switch (escaped) {
        case 'n':
          text += '\n';
          break;
        case 't':
          text += '\t';
          break;
        case 'r':
          text += '\r';
          break;
        case '\\':
        case '\'':
        case '"':
          text += escaped;
          break;
        case 'u':
        case 'x':
        case 'U':
        case 'N':
          fail("an escape of a character by its number, which is not supported");
        default:  // as in Python: both characters stay
          text += '\\';
          text += escaped;
      }
    }
    if (at_ >= source_.size()) fail("a string without an end");
    ++at_;
    add(Kind::string, std::move(text));
  }

  std::string_view source_;
  size_t at_ = 0;
  bool strip_next_ = false;
  bool trim_newline_ = false;
  std::vector<Token> tokens_;
};

}  // namespace

std::vector<Token> tokenize(std::string_view source) {
  return Lexer(source).run();
}

}  // namespace train_sft::jinja
