// Text to token ids and back.
//
// encode() reads plain text: the names of special tokens inside it stay text, whatever they look
// like, so a user's message can never forge a turn. Special tokens are placed by id (special_id).
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace train_sft {

struct TrainConfig;

class Tokenizer {
 public:
  virtual ~Tokenizer() = default;
  virtual std::vector<int32_t> encode(std::string_view text) const = 0;
  // Exact inverse of encode for its ids; special tokens give nothing.
  virtual std::string decode(std::span<const int32_t> ids) const = 0;
  // The bytes one id stands for (may be half a UTF-8 character); "" for special tokens.
  virtual std::string token_bytes(int32_t id) const = 0;
  virtual int32_t vocab_size() const = 0;
  virtual std::optional<int32_t> special_id(std::string_view name) const = 0;
  virtual std::string special_name(int32_t) const { return {}; }  // "" for what is no special token
  virtual int32_t bos_id() const = 0;                             // -1 when there is none
  virtual int32_t eos_id() const = 0;
  virtual int32_t pad_id() const = 0;
  // Whether encode(a + b) == encode(a) + encode(b) wherever a ends with a newline and b does not
  // begin with one: long texts can then be encoded in parts.
  virtual bool splits_at_newlines() const { return false; }
  // A place p in (0, limit] with encode(text) == encode(text[:p]) + encode(text[p:]), near limit;
  // 0 when none is found near it. Whatever follows text does not matter: a text can be cut while it
  // is still being read.
  virtual size_t safe_cut(std::string_view text, size_t limit) const;
  virtual std::string kind() const = 0;         // "sentencepiece unigram", "byte-level bpe" …
  virtual std::string fingerprint() const = 0;  // checksum of what defines it
  // Writes tokenizer.json, tokenizer_config.json (with chat_template, when given, as Jinja) and, of
  // sentencepiece models, tokenizer.model into a directory: files that transformers loads to the
  // same ids.
  virtual void save(const std::string& directory, const std::string& jinja_chat_template) const = 0;
};

// A sentencepiece .model file, a tokenizer.json (byte-level BPE, see bpe.h), or a directory with
// tokenizer.model or tokenizer.json (the former where both are). Throws DataError.
std::unique_ptr<Tokenizer> load_tokenizer(const std::string& path);
// Whether load_tokenizer would find files of a tokenizer in this directory.
bool holds_tokenizer(const std::string& directory);
// From a model's bytes (as train_tokenizer returns them); `where` names them in errors.
std::unique_ptr<Tokenizer> tokenizer_from_model(std::string model_bytes, const std::string& where);

struct TokenizerTraining {
  std::string type = "bpe";                        // unigram, bpe, char
  int64_t vocab_size = 8192;                       // char: an upper limit
  uint64_t max_sample_bytes = uint64_t{64} << 20;  // of the corpus, evenly spread
};
// As the settings ask for it: tokenizer_type, and vocab_size when one is given.
TokenizerTraining tokenizer_training(const TrainConfig& config);

// Trains with sentencepiece on plain documents and returns the model's bytes. Normalisation is the
// identity, whitespace and newlines survive exactly, bytes outside the vocabulary fall back to byte
// tokens. The chat specials of every built-in template are control symbols at fixed first ids.
// A pure function of its arguments: the same documents give the same bytes.
std::string train_tokenizer(const std::vector<std::string>& documents,
                            const TokenizerTraining& training);

}  // namespace train_sft
