// sentencepiece writes a space as U+2581.
#pragma once

#include <string>
#include <string_view>

namespace train_sft {

std::string with_spaces(std::string_view piece);  // U+2581 → ' '

}  // namespace train_sft
