// Byte-level BPE: the tokenizers of GPT-2, Llama 3, Qwen, SmolLM and their kin, as data.
//
// BpeDefinition is what a tokenizer.json (Hugging Face `tokenizers`) and a GGUF file's
// tokenizer.ggml.* keys both come down to. bpe_tokenizer() makes a Tokenizer of it whose ids are
// those of Hugging Face `tokenizers`; its save() writes tokenizer.json and tokenizer_config.json.
//
// Sources: Radford et al. 2019 (byte-level BPE; encoder.py of openai/gpt-2), Sennrich et al. 2016
// (BPE), the behaviour of `tokenizers` 0.23 (pre-tokenizers, added tokens, ignore_merges).
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "train_sft/text/tokenizer.h"

namespace train_sft {

// A token found in the text before the pre-tokenizer sees it (never, in encode(), when special).
struct AddedToken {
  int32_t id = 0;
  std::string content;       // the text itself, not in the byte alphabet
  bool special = false;      // placed by id only; decodes to nothing
  bool lstrip = false;       // takes the whitespace before it
  bool rstrip = false;       // takes the whitespace after it
  bool single_word = false;  // only where no word character stands beside it
  bool normalized = false;   // looked for in normalised text instead of in the raw text
};

// A step cuts each piece that the steps before it left.
struct PreTokenizerStep {
  enum class Kind {
    split,      // pieces are the matches of `pattern` and what stands between them
    digits,     // numbers (\p{N}) apart from the rest: each on its own, or whole runs
    byte_level  // always the last step; cuts with GPT-2's pattern when use_regex
  };
  Kind kind = Kind::byte_level;
  std::string pattern;             // split: a regular expression, in Oniguruma's sense of \s and \p
  bool individual_digits = false;  // digits
  bool add_prefix_space = false;   // byte_level: a space before pieces that begin without one
  bool use_regex = true;           // byte_level
};

enum class Normalizer { none, nfc };

struct BpeDefinition {
  // By id. Spelled in the byte alphabet as in vocab.json and GGUF (each byte one character: 'Ġ' is
  // a space), except for added tokens, whose text is literal. "" where an id is not in use.
  std::vector<std::string> tokens;
  // By rank; both parts and their concatenation are tokens.
  std::vector<std::pair<std::string, std::string>> merges;
  std::vector<AddedToken> added_tokens;
  std::vector<PreTokenizerStep> pre_tokenizer;  // the last one is byte_level
  Normalizer normalizer = Normalizer::none;
  bool ignore_merges = false;  // a piece that is a token is that token, whatever the merges say
  int32_t bos_id = -1;         // -1: none
  int32_t eos_id = -1;
  int32_t pad_id = -1;
  std::string post_processor;  // tokenizer.json's, as JSON: kept for save(), adds specials only
};

class BpeTokenizer : public Tokenizer {
 public:
  // Like encode(), but names of special tokens in text become those tokens: what `tokenizers` does
  // by default. For prompts that a user wrote with markup on purpose; never for a message.
  virtual std::vector<int32_t> encode_with_specials(std::string_view text) const = 0;
  virtual const BpeDefinition& definition() const = 0;
};

// Throws DataError naming `where` (the file) and the token, merge or step that does not fit:
// duplicate tokens, merges of unknown tokens, ids out of range, patterns that do not compile or
// whose meaning differs between Oniguruma and PCRE2.
std::unique_ptr<BpeTokenizer> bpe_tokenizer(BpeDefinition definition, const std::string& where);

// Reads a tokenizer.json with a byte-level BPE model, and bos, eos and pad from
// tokenizer_config.json, special_tokens_map.json, generation_config.json and config.json beside it,
// where they are. What is not implemented is a DataError that names it.
BpeDefinition read_bpe_definition(const std::string& tokenizer_json_path);

// Sets pre_tokenizer, normalizer and ignore_merges to what a GGUF file means by
// tokenizer.ggml.pre = name (llama.cpp, llama-vocab.cpp; the normaliser is the original model's).
// Throws DataError naming `where` and the known names.
void apply_gguf_pre_tokenizer(const std::string& name, BpeDefinition& definition,
                              const std::string& where);
// The name for these settings; nothing when GGUF has none.
std::optional<std::string> gguf_pre_tokenizer_name(const BpeDefinition& definition);

}  // namespace train_sft
