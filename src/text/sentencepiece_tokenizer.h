#pragma once

#include <sentencepiece_processor.h>

#include <optional>
#include <string>
#include <unordered_map>
#include <vector>

#include "segment.h"
#include "sentencepiece_model.h"
#include "train_sft/text/tokenizer.h"

namespace train_sft {

class SentencepieceTokenizer : public Tokenizer {
 public:
  SentencepieceTokenizer(std::string model_bytes, const std::string& where);

  std::vector<int32_t> encode(std::string_view text) const override;
  std::string decode(std::span<const int32_t> ids) const override;
  std::string token_bytes(int32_t id) const override;
  int32_t vocab_size() const override { return static_cast<int32_t>(pieces_.size()); }
  std::optional<int32_t> special_id(std::string_view name) const override;
  std::string special_name(int32_t id) const override;
  int32_t bos_id() const override { return processor_.bos_id(); }
  int32_t eos_id() const override { return processor_.eos_id(); }
  int32_t pad_id() const override { return processor_.pad_id(); }
  bool splits_at_newlines() const override { return segmenter_.has_value(); }
  std::string kind() const override;
  std::string fingerprint() const override;
  void save(const std::string& directory, const std::string& jinja_chat_template) const override;

 private:
  void encode_segment(std::string_view segment, std::vector<int32_t>& ids) const;
  std::vector<int> encode_with_model(std::string_view text) const;
  std::string piece_name(int32_t id) const;

  std::string model_bytes_;
  SentencepieceModel model_;
  sentencepiece::SentencePieceProcessor processor_;
  std::vector<std::string> pieces_;  // the bytes each id stands for
  std::unordered_map<std::string, int32_t> specials_;
  std::vector<int32_t> space_symbol_ids_;  // byte tokens that spell U+2581
  std::optional<Segmenter> segmenter_;     // none: a foreign model, encoded as a whole
  uint64_t instance_;                      // key of the per-thread caches
};

}  // namespace train_sft
