#include "regex_splitter.h"

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

#include <utility>

#include "train_sft/base/error.h"

namespace train_sft {
namespace {

constexpr uint32_t kMatchLimit = 1'000'000;
constexpr size_t kJitStackBytes = size_t{1} << 20;

const PCRE2_UCHAR8* units(std::string_view text) {
  return reinterpret_cast<const PCRE2_UCHAR8*>(text.data());
}

pcre2_code* compile(const std::string& pattern, const std::string& where) {
  pcre2_compile_context* context = pcre2_compile_context_create(nullptr);
  pcre2_set_newline(context, PCRE2_NEWLINE_LF);
  pcre2_set_parens_nest_limit(context, 64);
  int error = 0;
  size_t offset = 0;
  pcre2_code* code = pcre2_compile(units(pattern), pattern.size(), PCRE2_UTF | PCRE2_UCP, &error,
                                   &offset, context);
  pcre2_compile_context_free(context);
  if (code == nullptr) {
    char message[256] = {};
    pcre2_get_error_message(error, reinterpret_cast<PCRE2_UCHAR8*>(message), sizeof message);
    throw DataError("{}: the pattern {} is not a regular expression (at byte {}: {})", where,
                    pattern, offset, message);
  }
  pcre2_jit_compile(code, PCRE2_JIT_COMPLETE);  // without JIT pcre2_match() interprets
  return code;
}

// What a match needs besides the pattern; one a thread.
struct Scratch {
  pcre2_match_data* data = pcre2_match_data_create(1, nullptr);
  pcre2_match_context* context = pcre2_match_context_create(nullptr);
  pcre2_jit_stack* stack = pcre2_jit_stack_create(32 << 10, kJitStackBytes, nullptr);
  Scratch() {
    pcre2_set_match_limit(context, kMatchLimit);
    if (stack != nullptr) pcre2_jit_stack_assign(context, nullptr, stack);
  }
  ~Scratch() {
    pcre2_jit_stack_free(stack);
    pcre2_match_context_free(context);
    pcre2_match_data_free(data);
  }
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;
};

Scratch& scratch() {
  thread_local Scratch scratch;
  return scratch;
}

struct Match {
  bool found;
  size_t begin, end;
};

Match search(const pcre2_code* code, std::string_view text, size_t from) {
  Scratch& with = scratch();
  const int result = pcre2_match(code, units(text), text.size(), from, PCRE2_NO_UTF_CHECK,
                                 with.data, with.context);
  if (result == PCRE2_ERROR_NOMATCH) return {false, 0, 0};
  if (result < 0) {
    char message[256] = {};
    pcre2_get_error_message(result, reinterpret_cast<PCRE2_UCHAR8*>(message), sizeof message);
    throw DataError("the tokenizer's pattern gave up at byte {} of a text: {}", from, message);
  }
  const size_t* offsets = pcre2_get_ovector_pointer(with.data);
  return {true, offsets[0], offsets[1]};
}

std::string without_ours(CharClass of, const std::string& name) {
  const std::string pattern = "\\p{" + name + "}";
  pcre2_code* code = compile(pattern, "PCRE2");
  const CharClasses& classes = CharClasses::get();
  std::string members;
  for (uint32_t c = 0x80; c < 0x110000; ++c) {
    const auto misses = [&](uint32_t x) {
      if (x >= 0x110000 || (x >= 0xD800 && x < 0xE000) || classes.of(x) != of) return false;
      char bytes[4] = {
          static_cast<char>(0xF0 | x >> 18), static_cast<char>(0x80 | (x >> 12 & 0x3F)),
          static_cast<char>(0x80 | (x >> 6 & 0x3F)), static_cast<char>(0x80 | (x & 0x3F))};
      std::string_view text(bytes, 4);
      if (x < 0x10000) {
        bytes[1] = static_cast<char>(0xE0 | x >> 12);
        text.remove_prefix(1);
      }
      if (x < 0x800) {
        bytes[2] = static_cast<char>(0xC0 | x >> 6);
        text.remove_prefix(1);
      }
      return !search(code, text, 0).found;
    };
    if (!misses(c)) continue;
    const uint32_t first = c;
    while (misses(c + 1)) ++c;
    members += fmt::format("\\x{{{:x}}}-\\x{{{:x}}}", first, c);
  }
  pcre2_code_free(code);
  return members;
}

}  // namespace

const std::string& missing_members(CharClass of) {
  static const std::string letters = without_ours(CharClass::letter, "L");
  static const std::string numbers = without_ours(CharClass::number, "N");
  return of == CharClass::letter ? letters : numbers;
}

struct RegexSplitter::Code {
  pcre2_code* compiled;
  explicit Code(pcre2_code* code) : compiled(code) {}
  ~Code() { pcre2_code_free(compiled); }
  Code(const Code&) = delete;
  Code& operator=(const Code&) = delete;
};

RegexSplitter::RegexSplitter(const std::string& pattern, const std::string& where)
    : code_(std::make_unique<Code>(compile(pcre2_pattern(pattern, where), where))) {}
RegexSplitter::~RegexSplitter() = default;

size_t RegexSplitter::piece_end(std::string_view text, size_t begin) const {
  for (size_t from = begin; from < text.size(); from += character_at(text, from).bytes) {
    const Match match = search(code_->compiled, text, from);
    if (!match.found) return text.size();
    if (match.begin > begin) return match.begin;
    if (match.end > begin) return match.end;
    // An empty match where the piece begins says nothing: look on from the next character.
  }
  return text.size();
}

}  // namespace train_sft
