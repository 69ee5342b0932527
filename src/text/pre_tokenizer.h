// Cuts text into the pieces within which BPE merges.
#pragma once

#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "train_sft/text/bpe.h"

namespace train_sft {

// GPT-2's pattern (encoder.py of openai/gpt-2), which a byte_level step with use_regex stands for.
extern const std::string_view kGpt2Pattern;
// Llama 3's pattern, and Qwen2's, which takes digits one by one.
extern const std::string_view kLlama3Pattern;
extern const std::string_view kQwen2Pattern;

// What a splitter does between a character that is not whitespace and a space after it.
enum class AtSpaces {
  unknown,  // the cuts on one side may hang on what stands on the other
  neutral,  // may go on across, but each side is cut the same without the other
  ends      // a piece always ends there, and each side is cut the same without the other
};

// One way to cut. text is well-formed UTF-8; a piece begins at `begin` < text.size().
class Splitter {
 public:
  virtual ~Splitter() = default;
  virtual size_t piece_end(std::string_view text, size_t begin) const = 0;
  virtual AtSpaces at_spaces() const = 0;
};

// Hand-written for the known patterns, else PCRE2's. Throws DataError.
std::unique_ptr<Splitter> pattern_splitter(const std::string& pattern, const std::string& where);
std::unique_ptr<Splitter> digits_splitter(bool individual);

class PreTokenizer {
 public:
  // Throws DataError: no byte_level step at the end, or one before it.
  PreTokenizer(const std::vector<PreTokenizerStep>& steps, const std::string& where);

  // Calls sink(piece) for each piece in order; pieces are views of text unless a space was put in
  // front (add_prefix_space).
  template <typename Sink>
  void for_each_piece(std::string_view text, const Sink& sink) const {
    cut(0, text, sink);
  }
  bool ends_before_spaces() const;

 private:
  template <typename Sink>
  void cut(size_t step, std::string_view text, const Sink& sink) const {
    if (step == splitters_.size()) {
      sink(text);
      return;
    }
    std::string with_space;
    if (add_prefix_space_ && step + 1 == splitters_.size() && !text.starts_with(' ')) {
      with_space = ' ' + std::string(text);
      text = with_space;
    }
    if (splitters_[step] == nullptr) {
      cut(step + 1, text, sink);
      return;
    }
    for (size_t begin = 0; begin < text.size();) {
      const size_t end = splitters_[step]->piece_end(text, begin);
      cut(step + 1, text.substr(begin, end - begin), sink);
      begin = end;
    }
  }

  std::vector<std::unique_ptr<Splitter>> splitters_;  // a step each; null: does not cut
  bool add_prefix_space_ = false;                     // of the last step, byte_level
};

}  // namespace train_sft
