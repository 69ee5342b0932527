// Jinja source to tokens: text, and what stands between {{ }} and {% %}.
#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace train_sft::jinja {

struct Token {
  enum class Kind {
    text,
    begin_output,
    end_output,
    begin_block,
    end_block,
    name,
    string,
    integer,
    number,
    symbol,
    end
  };
  Kind kind = Kind::end;
  std::string text;
  size_t line = 1;
};

// Ends with an `end` token. White space around tags is already taken away as trim_blocks,
// lstrip_blocks, '-' and '+' say. Throws DataError with the line.
std::vector<Token> tokenize(std::string_view source);

}  // namespace train_sft::jinja
