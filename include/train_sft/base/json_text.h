// JSON before it is parsed: its brackets, its lines.
#pragma once

#include <cstddef>
#include <functional>
#include <string_view>

#include "train_sft/base/json.h"

namespace train_sft {

// Levels of brackets that a file may nest: what reads a value is recursive here and there, and no
// file may choose how deep.
inline constexpr int kDeepestJson = 256;

// Calls visit(place, depth) at each bracket of JSON text that stands in no string, depth being the
// levels open after it, until visit returns false.
template <typename Visit>
void visit_brackets(std::string_view text, const Visit& visit) {
  int depth = 0;
  bool in_string = false;
  for (size_t i = 0; i < text.size(); ++i) {
    const char c = text[i];
    if (in_string) {
      if (c == '\\') ++i;
      if (c == '"') in_string = false;
    } else if (c == '"') {
      in_string = true;
    } else if (c == '{' || c == '[') {
      if (!visit(i, ++depth)) return;
    } else if (c == '}' || c == ']') {
      if (!visit(i, --depth)) return;
    }
  }
}

// Members of one object: Json keeps their order, and looks for each among all before it.
inline constexpr size_t kMostMembers = size_t{1} << 16;

// The place in JSON text, of no more than kDeepestJson levels, where an object gets more members
// than that; npos: nowhere.
size_t too_many_members(std::string_view text);

// The objects of JSON lines, in order, as far as the text is whole: ends before a line that is torn
// or no object or nested too deeply, and before one that `take` refuses. Returns the bytes of the lines taken.
size_t read_json_lines(std::string_view text, const std::function<bool(Json&&)>& take);

}  // namespace train_sft
