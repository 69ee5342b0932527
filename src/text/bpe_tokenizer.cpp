#include "bpe_tokenizer.h"

#include <algorithm>
#include <atomic>
#include <utility>

#include "bpe_build.h"
#include "byte_alphabet.h"
#include "nfc.h"
#include "piece_cache.h"
#include "tokenizer_json.h"
#include "train_sft/base/error.h"
#include "train_sft/base/file.h"
#include "train_sft/base/json.h"
#include "train_sft/base/utf8.h"
#include "unicode_classes.h"

namespace train_sft {
namespace {

std::atomic<uint32_t> next_bpe{1};

// Added tokens by id; the definition's order does not matter.
BpeDefinition checked(BpeDefinition definition, const std::string& where) {
  std::sort(definition.added_tokens.begin(), definition.added_tokens.end(),
            [](const AddedToken& a, const AddedToken& b) { return a.id < b.id; });
  check_definition(definition, where);
  return definition;
}

AddedTokenMatcher matcher_of(const BpeDefinition& definition, bool normalized) {
  std::vector<AddedToken> tokens;
  for (const AddedToken& token : definition.added_tokens) {
    if (token.normalized != normalized) continue;
    tokens.push_back(token);
    std::string storage;
    if (normalized && definition.normalizer == Normalizer::nfc) {
      tokens.back().content = std::string(nfc(token.content, storage));
    }
  }
  return AddedTokenMatcher(tokens);
}

// Whether an added token could reach across the border between a character and a space after it.
bool crosses_spaces(const AddedToken& token) {
  if (token.lstrip || token.rstrip) return true;
  const size_t first = token.content.find_first_not_of(' ');
  return first != std::string::npos && token.content.find(' ', first) != std::string::npos;
}

}  // namespace

ByteLevelBpe::ByteLevelBpe(BpeDefinition definition, const std::string& where)
    : definition_(checked(std::move(definition), where)),
      bytes_(token_bytes_of(definition_)),
      special_(bytes_.size(), false),
      raw_added_(matcher_of(definition_, false)),
      normalized_added_(matcher_of(definition_, true)),
      pre_tokenizer_(definition_.pre_tokenizer, where),
      merger_(merger_of(definition_, where)),
      cuts_before_spaces_(pre_tokenizer_.ends_before_spaces() &&
                          std::none_of(definition_.added_tokens.begin(),
                                       definition_.added_tokens.end(), crosses_spaces)),
      fingerprint_(fingerprint_of(definition_)),
      instance_(next_bpe++) {
  for (const AddedToken& token : definition_.added_tokens) {
    if (!token.special) continue;
    special_[static_cast<size_t>(token.id)] = true;
    specials_.emplace(token.content, token.id);
  }
  if (!definition_.ignore_merges) return;
  for (size_t id = 0; id < bytes_.size(); ++id) {
    const bool spelled = to_byte_alphabet(bytes_[id]) == definition_.tokens[id];
    if (spelled && !bytes_[id].empty() && !special_[id]) {
      whole_.emplace(bytes_[id], static_cast<int32_t>(id));
    }
  }
}

void ByteLevelBpe::encode_piece(std::string_view piece, std::vector<int32_t>& ids) const {
  const bool cached = piece.size() <= PieceCache::kMaxBytes;
  PieceCache::Slot* slot = nullptr;
  if (cached) {
    slot = &PieceCache::of_this_thread().slot(piece, instance_);
    if (slot->holds(piece, instance_)) {
      ids.insert(ids.end(), slot->ids.data(), slot->ids.data() + slot->count);
      return;
    }
  }
  const size_t first = ids.size();
  const auto whole = whole_.empty() ? whole_.end() : whole_.find(piece);
  if (whole != whole_.end()) {
    ids.push_back(whole->second);
  } else {
    merger_.append(piece, ids);
  }
  const size_t count = ids.size() - first;
  if (cached && count <= PieceCache::kMaxIds) {
    slot->put(piece, instance_, {ids.data() + first, count});
  }
}

void ByteLevelBpe::encode_plain(std::string_view text, std::vector<int32_t>& ids) const {
  pre_tokenizer_.for_each_piece(text, [&](std::string_view piece) { encode_piece(piece, ids); });
}

void ByteLevelBpe::encode_well_formed(std::string_view text, bool specials,
                                      std::vector<int32_t>& ids) const {
  std::string storage;
  const auto normalized_part = [&](std::string_view part) {
    if (definition_.normalizer == Normalizer::nfc) part = nfc(part, storage);
    if (!normalized_added_.finds(specials)) return encode_plain(part, ids);
    for (const auto& piece : normalized_added_.parts(part, specials)) {
      if (piece.id >= 0) {
        ids.push_back(piece.id);
      } else {
        encode_plain(piece.text, ids);
      }
    }
  };
  if (!raw_added_.finds(specials)) return normalized_part(text);
  for (const auto& part : raw_added_.parts(text, specials)) {
    if (part.id >= 0) {
      ids.push_back(part.id);
    } else {
      normalized_part(part.text);
    }
  }
}

std::vector<int32_t> ByteLevelBpe::encode_any(std::string_view text, bool specials) const {
  std::vector<int32_t> ids;
  ids.reserve(text.size() / 3 + 8);
  while (!text.empty()) {
    const size_t invalid = find_invalid_utf8(text).value_or(text.size());
    if (invalid > 0) encode_well_formed(text.substr(0, invalid), specials, ids);
    if (invalid == text.size()) break;
    encode_piece(text.substr(invalid, 1), ids);  // a byte of no character, on its own
    text.remove_prefix(invalid + 1);
  }
  return ids;
}

std::vector<int32_t> ByteLevelBpe::encode(std::string_view text) const {
  return encode_any(text, false);
}

std::vector<int32_t> ByteLevelBpe::encode_with_specials(std::string_view text) const {
  return encode_any(text, true);
}

std::string ByteLevelBpe::decode(std::span<const int32_t> ids) const {
  std::string text;
  for (const int32_t id : ids) {
    TRAIN_SFT_CHECK(id >= 0 && id < vocab_size(), "token id {} of {}", id, vocab_size());
    if (!special_[static_cast<size_t>(id)]) text += bytes_[static_cast<size_t>(id)];
  }
  return text;
}

std::string ByteLevelBpe::token_bytes(int32_t id) const {
  return decode({&id, 1});
}

std::optional<int32_t> ByteLevelBpe::special_id(std::string_view name) const {
  const auto found = specials_.find(std::string(name));
  if (found == specials_.end()) return std::nullopt;
  return found->second;
}

std::string ByteLevelBpe::special_name(int32_t id) const {
  const auto found = std::find_if(specials_.begin(), specials_.end(),
                                  [&](const auto& special) { return special.second == id; });
  return found == specials_.end() ? "" : found->first;
}

size_t ByteLevelBpe::safe_cut(std::string_view text, size_t limit) const {
  if (!cuts_before_spaces_ || text.empty()) return 0;
  const CharClasses& classes = CharClasses::get();
  for (size_t p = std::min(limit, text.size() - 1); p > 0; --p) {
    if (text[p] != ' ') continue;
    const size_t before = character_before(text, p);
    // Bytes of no character are never whitespace; nor is what cannot be read from its lead byte.
    if (find_invalid_utf8(text.substr(before, p - before))) continue;
    if (classes.of(character_at(text, before).code) != CharClass::space) return p;
  }
  return 0;
}

void ByteLevelBpe::save(const std::string& directory,
                        const std::string& jinja_chat_template) const {
  make_directories(directory);
  write_file_atomically(join_path(directory, "tokenizer.json"), bpe_tokenizer_json(definition_));
  const auto name = [&](int32_t id) {
    if (id < 0) return std::string();
    for (const AddedToken& token : definition_.added_tokens) {
      if (token.id == id) return token.content;
    }
    return definition_.tokens[static_cast<size_t>(id)];
  };
  const SpecialNames names{name(bos_id()), name(eos_id()), name(pad_id()), ""};
  write_file_atomically(join_path(directory, "tokenizer_config.json"),
                        dump_json(huggingface_tokenizer_config(names, jinja_chat_template)));
}

std::unique_ptr<BpeTokenizer> bpe_tokenizer(BpeDefinition definition, const std::string& where) {
  return std::make_unique<ByteLevelBpe>(std::move(definition), where);
}

}  // namespace train_sft
