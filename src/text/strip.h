#pragma once

#include <string_view>

namespace train_sft {

// What Python's str.strip(characters) leaves: without `characters` (ASCII), Unicode white space
// goes.
std::string_view stripped(std::string_view text, std::string_view characters = {}, bool left = true,
                          bool right = true);

}  // namespace train_sft
