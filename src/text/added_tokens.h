// Added tokens are found before anything else happens to a text: leftmost, of those the longest,
// without overlap (as AddedVocabulary of `tokenizers` does).
#pragma once

#include <cstdint>
#include <string_view>
#include <vector>

#include "train_sft/text/bpe.h"

namespace train_sft {

class AddedTokenMatcher {
 public:
  AddedTokenMatcher() = default;
  explicit AddedTokenMatcher(const std::vector<AddedToken>& tokens);

  struct Part {
    std::string_view text;
    int32_t id;  // -1: plain text
  };
  // Cuts text into added tokens and what stands between them. Without specials, a special token's
  // name stays text; as in `tokenizers`, no other token is then found within it.
  std::vector<Part> parts(std::string_view text, bool specials) const;
  // Whether there is anything to look for.
  bool finds(bool specials) const { return specials ? !tokens_.empty() : finds_plain_; }

 private:
  const AddedToken* longest_at(std::string_view text, size_t at) const;

  std::vector<AddedToken> tokens_;  // by first byte, then the longest first
  std::vector<uint32_t> first_of_;  // [257] tokens_ of each first byte
  bool finds_plain_ = false;
};

}  // namespace train_sft
