#pragma once

#include <optional>
#include <string>
#include <unordered_map>
#include <vector>

#include "added_tokens.h"
#include "bpe_merger.h"
#include "pre_tokenizer.h"
#include "train_sft/text/bpe.h"

namespace train_sft {

class ByteLevelBpe : public BpeTokenizer {
 public:
  ByteLevelBpe(BpeDefinition definition, const std::string& where);

  std::vector<int32_t> encode(std::string_view text) const override;
  std::vector<int32_t> encode_with_specials(std::string_view text) const override;
  std::string decode(std::span<const int32_t> ids) const override;
  std::string token_bytes(int32_t id) const override;
  int32_t vocab_size() const override { return static_cast<int32_t>(bytes_.size()); }
  std::optional<int32_t> special_id(std::string_view name) const override;
  std::string special_name(int32_t id) const override;
  int32_t bos_id() const override { return definition_.bos_id; }
  int32_t eos_id() const override { return definition_.eos_id; }
  int32_t pad_id() const override { return definition_.pad_id; }
  size_t safe_cut(std::string_view text, size_t limit) const override;
  std::string kind() const override { return "byte-level bpe"; }
  std::string fingerprint() const override { return fingerprint_; }
  void save(const std::string& directory, const std::string& jinja_chat_template) const override;
  const BpeDefinition& definition() const override { return definition_; }

 private:
  std::vector<int32_t> encode_any(std::string_view text, bool specials) const;
  void encode_well_formed(std::string_view text, bool specials, std::vector<int32_t>& ids) const;
  void encode_plain(std::string_view text, std::vector<int32_t>& ids) const;
  void encode_piece(std::string_view piece, std::vector<int32_t>& ids) const;

  BpeDefinition definition_;
  std::vector<std::string> bytes_;                       // what each id stands for
  std::vector<bool> special_;                            // by id
  std::unordered_map<std::string, int32_t> specials_;    // by name
  std::unordered_map<std::string_view, int32_t> whole_;  // ignore_merges: pieces that are tokens
  AddedTokenMatcher raw_added_;
  AddedTokenMatcher normalized_added_;
  PreTokenizer pre_tokenizer_;
  BpeMerger merger_;
  bool cuts_before_spaces_;
  std::string fingerprint_;
  uint32_t instance_;  // key in the per-thread caches
};

}  // namespace train_sft
