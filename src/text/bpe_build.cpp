#include "bpe_build.h"

#include <array>
#include <limits>
#include <unordered_set>

#include "byte_alphabet.h"
#include "train_sft/base/checksum.h"
#include "train_sft/base/error.h"
#include "train_sft/base/log.h"
#include "train_sft/base/utf8.h"

namespace train_sft {
namespace {

constexpr size_t kMaxTokens = size_t{1} << 24;
constexpr size_t kMaxTokenBytes = size_t{1} << 16;

using IdOfToken = std::unordered_map<std::string_view, int32_t>;

IdOfToken ids_of_tokens(const BpeDefinition& definition, const std::string& where) {
  IdOfToken ids;
  ids.reserve(definition.tokens.size());
  for (size_t id = 0; id < definition.tokens.size(); ++id) {
    const std::string& token = definition.tokens[id];
    if (token.empty()) continue;
    const auto [at, added] = ids.emplace(token, static_cast<int32_t>(id));
    if (!added) {
      throw DataError("{}: token '{}' stands at two ids, {} and {}", where, token, at->second, id);
    }
  }
  return ids;
}

void check_id(int32_t id, const BpeDefinition& definition, const std::string& what,
              const std::string& where) {
  if (id < 0 || static_cast<size_t>(id) >= definition.tokens.size()) {
    throw DataError("{}: {} has id {}, but there are {} tokens", where, what, id,
                    definition.tokens.size());
  }
}

void check_added_tokens(const BpeDefinition& definition, const std::string& where) {
  std::unordered_set<int32_t> seen;
  std::unordered_set<std::string_view> contents;
  for (const AddedToken& token : definition.added_tokens) {
    const std::string what = fmt::format("added token '{}'", token.content);
    check_id(token.id, definition, what, where);
    if (token.content.empty() || find_invalid_utf8(token.content)) {
      throw DataError("{}: the added token of id {} is empty or not UTF-8", where, token.id);
    }
    if (token.single_word) throw DataError("{}: {}: single_word is not implemented", where, what);
    if (!seen.insert(token.id).second || !contents.insert(token.content).second) {
      throw DataError("{}: {} (id {}) stands there twice", where, what, token.id);
    }
  }
}

}  // namespace

void check_definition(const BpeDefinition& definition, const std::string& where) {
  if (definition.tokens.empty() || definition.tokens.size() > kMaxTokens) {
    throw DataError("{}: {} tokens; expected 1 to {}", where, definition.tokens.size(), kMaxTokens);
  }
  for (size_t id = 0; id < definition.tokens.size(); ++id) {
    if (definition.tokens[id].size() > kMaxTokenBytes) {
      throw DataError("{}: token {} has {} bytes, more than {}", where, id,
                      definition.tokens[id].size(), kMaxTokenBytes);
    }
  }
  check_added_tokens(definition, where);
  const std::pair<const char*, int32_t> named[] = {
      {"bos", definition.bos_id}, {"eos", definition.eos_id}, {"pad", definition.pad_id}};
  for (const auto& [name, id] : named) {
    if (id != -1) check_id(id, definition, fmt::format("the {} token", name), where);
  }
}

std::vector<std::string> token_bytes_of(const BpeDefinition& definition) {
  std::vector<std::string> bytes;
  bytes.reserve(definition.tokens.size());
  for (const std::string& token : definition.tokens) {
    // A token with a character of no byte (it cannot come of merges) stands for its own text.
    bytes.push_back(from_byte_alphabet(token).value_or(token));
  }
  for (const AddedToken& token : definition.added_tokens) {
    bytes[static_cast<size_t>(token.id)] = token.content;
  }
  return bytes;
}

BpeMerger merger_of(const BpeDefinition& definition, const std::string& where) {
  const IdOfToken ids = ids_of_tokens(definition, where);
  std::array<int32_t, 256> byte_ids{};
  int missing = 0;
  for (size_t byte = 0; byte < 256; ++byte) {
    const auto found = ids.find(to_byte_alphabet(std::string(1, static_cast<char>(byte))));
    byte_ids[byte] = found == ids.end() ? -1 : found->second;
    if (found == ids.end()) ++missing;
  }
  if (missing == 256)
    throw DataError("{}: no token is a single byte: not a byte-level vocabulary", where);
  if (missing > 0) {
    log::info(
        "{}: {} bytes have no token of their own; characters that need them are left out of "
        "the ids, as `tokenizers` does",
        where, missing);
  }
  MergeTable table(definition.merges.size());
  std::string whole;
  for (size_t rank = 0; rank < definition.merges.size(); ++rank) {
    const std::string &left = definition.merges[rank].first,
                      &right = definition.merges[rank].second;
    whole = left + right;
    const auto id_of = [&](const std::string& token) {
      const auto found = ids.find(token);
      if (found == ids.end()) {
        throw DataError("{}: merge {} ('{}' + '{}'): '{}' is not a token", where, rank, left, right,
                        token);
      }
      return found->second;
    };
    const int32_t left_id = id_of(left);
    const int32_t right_id = id_of(right);
    table.insert(left_id, right_id, {static_cast<uint32_t>(rank), id_of(whole)});
  }
  return {byte_ids, std::move(table)};
}

std::string fingerprint_of(const BpeDefinition& definition) {
  Checksum sum;
  const auto text = [&](std::string_view value) {
    sum.add(fmt::format("{}:", value.size()));
    sum.add(value);
  };
  const auto numbers = [&](std::initializer_list<int64_t> values) {
    for (const int64_t value : values) sum.add(fmt::format("{},", value));
  };
  text("byte-level bpe 1");
  for (const std::string& token : definition.tokens) text(token);
  text("merges");
  for (const auto& [left, right] : definition.merges) {
    text(left);
    text(right);
  }
  text("added");
  for (const AddedToken& token : definition.added_tokens) {
    text(token.content);
    numbers({token.id, token.special, token.lstrip, token.rstrip, token.normalized});
  }
  text("steps");
  for (const PreTokenizerStep& step : definition.pre_tokenizer) {
    text(step.pattern);
    numbers({static_cast<int64_t>(step.kind), step.individual_digits, step.add_prefix_space,
             step.use_regex});
  }
  numbers({static_cast<int64_t>(definition.normalizer), definition.ignore_merges, definition.bos_id,
           definition.eos_id, definition.pad_id});
  return sum.hex();
}

}  // namespace train_sft
