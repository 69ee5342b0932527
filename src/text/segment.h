// Where text is cut before a tokenizer's model sees it. A segment is a run of newlines, or spaces
// and the word after them; the opening '<' of a special token's name ends its segment, so that no
// piece can ever spell such a name. Models trained here have no piece across a cut: encoding
// segment by segment equals encoding the whole, and can be cached.
//
// segment_regex() says the same to Hugging Face tokenizers (an Oniguruma pattern for Split).
#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace train_sft {

inline constexpr std::string_view kSpaceSymbol = "\xE2\x96\x81";  // U+2581, sentencepiece's space

class Segmenter {
 public:
  // Names that plain text must not produce, each "<…": byte tokens "<0x00>" are always among them.
  explicit Segmenter(std::vector<std::string> special_names);
  // End of the segment that begins at `begin` < text.size().
  size_t segment_end(std::string_view text, size_t begin) const;
  std::string regex() const;

 private:
  bool special_rest_at(std::string_view text, size_t after_bracket) const;

  std::vector<std::string> rests_;  // names without their '<'
};

}  // namespace train_sft
