// Unicode Normalization Form C (UAX #15) of well-formed UTF-8, through utf8proc.
#pragma once

#include <string>
#include <string_view>

namespace train_sft {

// text itself where it is normal already (the usual case, found without a copy), else its normal
// form in `storage`.
std::string_view nfc(std::string_view text, std::string& storage);

}  // namespace train_sft
