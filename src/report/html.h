// Text that may hold anything to HTML.
#pragma once

#include <string>
#include <string_view>

namespace train_sft::html {

// For text between tags and inside quoted attributes. Control characters other than newline and tab
// become U+FFFD, as do ill-formed UTF-8 sequences.
std::string escape(std::string_view text);
// For JSON inside a script element: no '<', '>', '&' or line separator is left as it is.
std::string escape_json(std::string_view json);

}  // namespace train_sft::html
