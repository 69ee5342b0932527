#include "pre_tokenizer.h"

#include "regex_splitter.h"
#include "train_sft/base/error.h"
#include "unicode_classes.h"

namespace train_sft {

const std::string_view kGpt2Pattern =
    R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)";
const std::string_view kLlama3Pattern =
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";
const std::string_view kQwen2Pattern =
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";

namespace {

struct Classified {
  uint32_t code;
  uint32_t bytes;
  CharClass kind;
};

// A text with the class of each of its characters; tables for ASCII first.
class Reader {
 public:
  Reader(std::string_view text, const CharClasses& classes) : text_(text), classes_(classes) {}
  bool ends(size_t at) const { return at >= text_.size(); }
  char byte(size_t at) const { return at < text_.size() ? text_[at] : '\0'; }
  Classified at(size_t i) const {
    const Character c = character_at(text_, i);
    return {c.code, c.bytes, classes_.of(c.code)};
  }
  // End of the run of characters of this class from i on.
  size_t run(size_t i, CharClass kind) const {
    while (i < text_.size()) {
      const Classified c = at(i);
      if (c.kind != kind) break;
      i += c.bytes;
    }
    return i;
  }
  size_t size() const { return text_.size(); }
  std::string_view text() const { return text_; }

 private:
  std::string_view text_;
  const CharClasses& classes_;
};

// \s+(?!\S)|\s+ at a run of whitespace [begin, end).
size_t spaces_end(const Reader& in, size_t begin, size_t end) {
  if (in.ends(end)) return end;
  const size_t last = character_before(in.text(), end);
  return last > begin ? last : end;
}

// Bytes of 's 't 're 've 'm 'll 'd at an apostrophe; 0: none. Without case, ſ is an s.
size_t contraction_bytes(const Reader& in, size_t at, bool ignore_case) {
  const auto letter = [&](size_t i) {
    const char c = in.byte(i);
    return ignore_case && c >= 'A' && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c;
  };
  const char a = letter(at + 1);
  if (a == 's' || a == 't' || a == 'm' || a == 'd') return 2;
  if (ignore_case && a == '\xC5' && in.byte(at + 2) == '\xBF') return 3;
  const char b = letter(at + 2);
  if ((a == 'r' && b == 'e') || (a == 'v' && b == 'e') || (a == 'l' && b == 'l')) return 3;
  return 0;
}

class Gpt2Splitter : public Splitter {
 public:
  size_t piece_end(std::string_view text, size_t begin) const override {
    const Reader in(text, classes_);
    Classified c = in.at(begin);
    if (c.code == '\'') {
      if (const size_t bytes = contraction_bytes(in, begin, false)) return begin + bytes;
    }
    size_t at = begin;
    if (c.code == ' ' && !in.ends(begin + 1)) {
      const Classified next = in.at(begin + 1);
      if (next.kind != CharClass::space) {
        c = next;
        ++at;
      }
    }
    const size_t end = in.run(at + c.bytes, c.kind);
    return c.kind == CharClass::space ? spaces_end(in, begin, end) : end;
  }
  AtSpaces at_spaces() const override { return AtSpaces::ends; }

 private:
  const CharClasses& classes_ = CharClasses::get();
};

class Llama3Splitter : public Splitter {
 public:
  explicit Llama3Splitter(size_t most_digits) : most_digits_(most_digits) {}
  size_t piece_end(std::string_view text, size_t begin) const override {
    const Reader in(text, classes_);
    const Classified c = in.at(begin);
    if (c.kind == CharClass::letter) return in.run(begin + c.bytes, CharClass::letter);
    if (c.code == '\'') {
      if (const size_t bytes = contraction_bytes(in, begin, true)) return begin + bytes;
    }
    if (c.kind == CharClass::number) return digits_end(in, begin);
    const size_t second = begin + c.bytes;
    const bool newline = c.code == '\r' || c.code == '\n';
    if (!newline && !in.ends(second)) {
      const Classified next = in.at(second);
      if (next.kind == CharClass::letter) return in.run(second + next.bytes, CharClass::letter);
      if (c.code == ' ' && next.kind == CharClass::other) return symbols_end(in, second);
    }
    if (c.kind == CharClass::other) return symbols_end(in, begin);
    const size_t end = in.run(second, CharClass::space);
    const size_t last_newline = text.substr(begin, end - begin).find_last_of("\r\n");
    if (last_newline != std::string_view::npos) return begin + last_newline + 1;
    return spaces_end(in, begin, end);
  }
  AtSpaces at_spaces() const override { return AtSpaces::ends; }

 private:
  size_t digits_end(const Reader& in, size_t at) const {
    for (size_t n = 0; n < most_digits_ && !in.ends(at); ++n) {
      const Classified c = in.at(at);
      if (c.kind != CharClass::number) break;
      at += c.bytes;
    }
    return at;
  }
  static size_t symbols_end(const Reader& in, size_t at) {
    at = in.run(at, CharClass::other);
    while (in.byte(at) == '\r' || in.byte(at) == '\n') ++at;
    return at;
  }

  const CharClasses& classes_ = CharClasses::get();
  size_t most_digits_;
};

class DigitsSplitter : public Splitter {
 public:
  explicit DigitsSplitter(bool individual) : individual_(individual) {}
  size_t piece_end(std::string_view text, size_t begin) const override {
    const Character first = character_at(text, begin);
    const bool digits = classes_.is_digit(first.code);
    size_t at = begin + first.bytes;
    if (digits && individual_) return at;
    while (at < text.size()) {
      const Character c = character_at(text, at);
      if (classes_.is_digit(c.code) != digits) break;
      at += c.bytes;
    }
    return at;
  }
  AtSpaces at_spaces() const override { return AtSpaces::neutral; }

 private:
  const CharClasses& classes_ = CharClasses::get();
  bool individual_;
};

}  // namespace

std::unique_ptr<Splitter> pattern_splitter(const std::string& pattern, const std::string& where) {
  if (pattern == kGpt2Pattern) return std::make_unique<Gpt2Splitter>();
  if (pattern == kLlama3Pattern) return std::make_unique<Llama3Splitter>(3);
  if (pattern == kQwen2Pattern) return std::make_unique<Llama3Splitter>(1);
  return std::make_unique<RegexSplitter>(pattern, where);
}

std::unique_ptr<Splitter> digits_splitter(bool individual) {
  return std::make_unique<DigitsSplitter>(individual);
}

PreTokenizer::PreTokenizer(const std::vector<PreTokenizerStep>& steps, const std::string& where) {
  using Kind = PreTokenizerStep::Kind;
  if (steps.empty() || steps.back().kind != Kind::byte_level) {
    throw DataError(
        "{}: the pre-tokenizer does not end with a ByteLevel step; only byte-level BPE "
        "is implemented",
        where);
  }
  for (const PreTokenizerStep& step : steps) {
    if (step.kind == Kind::split) {
      splitters_.push_back(pattern_splitter(step.pattern, where));
    } else if (step.kind == Kind::digits) {
      splitters_.push_back(digits_splitter(step.individual_digits));
    } else {
      if (&step != &steps.back()) {
        throw DataError("{}: a pre-tokenizer step after ByteLevel is not implemented", where);
      }
      add_prefix_space_ = step.add_prefix_space;
      splitters_.push_back(step.use_regex ? pattern_splitter(std::string(kGpt2Pattern), where)
                                          : nullptr);
    }
  }
}

bool PreTokenizer::ends_before_spaces() const {
  bool ends = false;
  for (const auto& splitter : splitters_) {
    if (splitter == nullptr) continue;
    if (splitter->at_spaces() == AtSpaces::unknown) return false;
    ends = ends || splitter->at_spaces() == AtSpaces::ends;
  }
  return ends;
}

}  // namespace train_sft
