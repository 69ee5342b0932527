// Bytes of tokens as they are generated, to whole UTF-8 characters as they can be shown.
#pragma once

#include <string>
#include <string_view>

namespace train_sft::cli {

class Utf8Stream {
 public:
  // What can be shown after these bytes: a character that is still incomplete is kept back, an
  // ill-formed sequence becomes U+FFFD.
  std::string push(std::string_view bytes);
  // The rest, at the end.
  std::string finish();

 private:
  std::string kept_;
};

// Ill-formed sequences replaced by U+FFFD.
std::string well_formed(std::string_view text);

}  // namespace train_sft::cli
