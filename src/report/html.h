// Text that may hold anything to HTML.
#pragma once

#include <string>
#include <string_view>

namespace train_sft::html {

// Bytes of the well-formed UTF-8 character (RFC 3629) at the front of text, which is not empty; 0
// when it is ill-formed.
size_t character_bytes(std::string_view text);
// For text between tags and inside quoted attributes. Control characters other than newline and tab
// become U+FFFD, as do ill-formed UTF-8 sequences.
std::string escape(std::string_view text);
// For JSON inside a script element: no '<', '>', '&' or line separator is left as it is.
std::string escape_json(std::string_view json);

}  // namespace train_sft::html
