// A tokenizer.json's pattern, run by PCRE2 (with JIT where it works) but meaning what it means to
// Oniguruma, which `tokenizers` uses: \s is White_Space, \p{L} and \p{N} are Unicode 16.0's. What
// the two would read differently and is not translated is refused.
#pragma once

#include <cstddef>
#include <memory>
#include <string>
#include <string_view>

#include "pre_tokenizer.h"
#include "unicode_classes.h"

namespace train_sft {

class RegexSplitter final : public Splitter {
 public:
  // Throws DataError naming `where` and the pattern.
  RegexSplitter(const std::string& pattern, const std::string& where);
  ~RegexSplitter() override;

  // End of the piece that begins at `begin` < text.size(): a match, or what stands before the next
  // one. text: well-formed UTF-8, of which text[begin] begins a character. Safe to call from
  // several threads. Throws DataError where the pattern needs more than a million steps at a place.
  size_t piece_end(std::string_view text, size_t begin) const override;
  AtSpaces at_spaces() const override { return AtSpaces::unknown; }

 private:
  struct Code;
  std::unique_ptr<Code> code_;
};

// The pattern as PCRE2 must read it. Throws DataError.
std::string pcre2_pattern(std::string_view oniguruma, const std::string& where);
// Members of our class that this machine's PCRE2 does not yet know under \p{L} or \p{N}, as ranges
// within brackets.
const std::string& missing_members(CharClass of);

}  // namespace train_sft
