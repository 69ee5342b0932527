// tokenizer.json (Hugging Face `tokenizers` 0.23, src/tokenizer/serialization.rs and the serde
// definitions of each component) → BpeDefinition. Whatever would change ids and is not implemented
// is refused by name.
#include <algorithm>
#include <array>
#include <utility>

#include "byte_alphabet.h"
#include "json_fields.h"
#include "pre_tokenizer.h"
#include "tokenizer_config_reader.h"
#include "train_sft/base/error.h"
#include "train_sft/base/file.h"
#include "train_sft/base/log.h"
#include "train_sft/text/bpe.h"

namespace train_sft {
namespace {

constexpr uint64_t kMaxTokenizerBytes = uint64_t{256} << 20;
constexpr int64_t kMaxId = (int64_t{1} << 24) - 1;
constexpr size_t kMaxUnusedIds = size_t{1} << 16;
constexpr size_t kMaxSteps = 32;
constexpr size_t kMaxPatternBytes = size_t{1} << 14;

void put_token(std::vector<std::string>& tokens, int64_t id, const std::string& token,
               const std::string& where) {
  if (id < 0 || id > kMaxId) {
    throw DataError("{}: token '{}' has id {}, expected 0 to {}", where, token, id, kMaxId);
  }
  const auto place = static_cast<size_t>(id);
  if (place >= tokens.size()) tokens.resize(place + 1);
  if (!tokens[place].empty() && tokens[place] != token) {
    throw DataError("{}: tokens '{}' and '{}' have the same id {}", where, tokens[place], token,
                    id);
  }
  tokens[place] = token;
}

void read_vocabulary(const Fields& model, BpeDefinition& definition) {
  const MapJson& vocab = model.object("vocab").json();
  const std::string where = model.where() + ".vocab";
  // Before anything is made that large.
  for (const auto& [token, id] : vocab.items()) {
    if (!id.is_number_integer() || id.get<int64_t>() < 0 ||
        id.get<uint64_t>() >= vocab.size() + kMaxUnusedIds) {
      throw DataError("{}: token '{}' has id {}; expected a whole number below {}", where, token,
                      id.dump().substr(0, 40), vocab.size() + kMaxUnusedIds);
    }
  }
  for (const auto& [token, id] : vocab.items()) {
    put_token(definition.tokens, id.get<int64_t>(), token, where);
  }
}

std::pair<std::string, std::string> merge_of(const MapJson& json, const std::string& where) {
  if (json.is_array() && json.size() == 2 && json[0].is_string() && json[1].is_string()) {
    return {json[0].get<std::string>(), json[1].get<std::string>()};
  }
  if (json.is_string()) {
    const std::string& line = json.get_ref<const std::string&>();
    const size_t space = line.find(' ');
    if (space != std::string::npos && space > 0 && space + 1 < line.size() &&
        line.find(' ', space + 1) == std::string::npos) {
      return {line.substr(0, space), line.substr(space + 1)};
    }
  }
  throw DataError("{}: expected \"left right\" or [\"left\", \"right\"], found {}", where,
                  shortened(json));
}

void read_model(const Fields& model, BpeDefinition& definition) {
  const std::string type = model.string_or("type", "BPE");
  if (type != "BPE") {
    throw DataError(
        "{}: a model of type '{}' is not implemented; byte-level BPE is. If the tokenizer is "
        "sentencepiece's, give its tokenizer.model.",
        model.where(), type);
  }
  for (const char* field : {"continuing_subword_prefix", "end_of_word_suffix"}) {
    if (!model.string_or(field, "").empty()) model.refuse(field);
  }
  if (model.bool_or("byte_fallback", false)) model.refuse("byte_fallback");
  if (model.number_or("dropout", 0) != 0) model.refuse("dropout");
  definition.ignore_merges = model.bool_or("ignore_merges", false);
  read_vocabulary(model, definition);
  const MapJson& merges = model.array("merges");
  definition.merges.reserve(merges.size());
  for (size_t i = 0; i < merges.size(); ++i) {
    definition.merges.push_back(
        merge_of(merges[i], fmt::format("{}.merges[{}]", model.where(), i)));
  }
  if (model.string_or("unk_token", "").empty()) return;
  for (int byte = 0; byte < 256; ++byte) {
    const std::string word = to_byte_alphabet(std::string(1, static_cast<char>(byte)));
    if (!model.object("vocab").json().contains(word)) model.refuse("unk_token");
  }
}

void read_added_tokens(const Fields& root, BpeDefinition& definition) {
  if (!root.has("added_tokens")) return;
  const MapJson& list = root.array("added_tokens");
  const MapJson& vocab = root.object("model").object("vocab").json();
  const size_t limit = definition.tokens.size() + list.size() + kMaxUnusedIds;
  for (size_t i = 0; i < list.size(); ++i) {
    const Fields fields(list[i], fmt::format("{}.added_tokens[{}]", root.where(), i));
    AddedToken token;
    token.content = fields.string("content");
    if (token.content.empty()) continue;
    const int64_t id = fields.integer("id");
    if (id < 0 || static_cast<uint64_t>(id) >= limit) {
      throw DataError("{}: id {}; expected 0 to {}", fields.where(), id, limit - 1);
    }
    const auto known = vocab.find(token.content);
    if (known != vocab.end() && known->get<int64_t>() != id) {
      throw DataError("{}: '{}' has id {} here and {} in the vocabulary", fields.where(),
                      token.content, id, known->get<int64_t>());
    }
    token.id = static_cast<int32_t>(id);
    token.special = fields.bool_or("special", false);
    token.lstrip = fields.bool_or("lstrip", false);
    token.rstrip = fields.bool_or("rstrip", false);
    token.single_word = fields.bool_or("single_word", false);
    token.normalized = fields.bool_or("normalized", !token.special);
    put_token(definition.tokens, id, token.content, fields.where());
    definition.added_tokens.push_back(std::move(token));
  }
}

void read_normalizer(const Fields& normalizer, BpeDefinition& definition) {
  const std::string type = normalizer.string("type");
  if (type == "NFC") {
    definition.normalizer = Normalizer::nfc;
    return;
  }
  if (type != "Sequence") normalizer.refuse("type");
  const MapJson& list = normalizer.array("normalizers");
  for (size_t i = 0; i < list.size(); ++i) {
    const Fields step(list[i], fmt::format("{}.normalizers[{}]", normalizer.where(), i));
    if (step.string("type") != "NFC") step.refuse("type");
    definition.normalizer = Normalizer::nfc;
  }
}

// Patterns with which no character is left between matches, so that dropping those changes nothing.
bool covers_everything(const std::string& pattern) {
  return pattern == kGpt2Pattern || pattern == kLlama3Pattern || pattern == kQwen2Pattern;
}

PreTokenizerStep split_step(const Fields& fields) {
  PreTokenizerStep step;
  step.kind = PreTokenizerStep::Kind::split;
  const Fields pattern = fields.object("pattern");
  if (pattern.has("String")) {
    for (const char c : pattern.string("String")) {
      if (static_cast<unsigned char>(c) < 0x80 && std::isalnum(c) == 0) step.pattern += '\\';
      step.pattern += c;
    }
  } else {
    step.pattern = pattern.string("Regex");
  }
  if (step.pattern.empty() || step.pattern.size() > kMaxPatternBytes) {
    throw DataError("{}: a pattern of {} bytes; expected 1 to {}", pattern.where(),
                    step.pattern.size(), kMaxPatternBytes);
  }
  const std::string behavior = fields.string("behavior");
  const bool keeps_matches = behavior == "Removed" && fields.bool_or("invert", false);
  const bool isolates =
      behavior == "Isolated" || (keeps_matches && covers_everything(step.pattern));
  if (!isolates) fields.refuse("behavior");
  return step;
}

void read_pre_tokenizer(const Fields& fields, BpeDefinition& definition) {
  const std::string type = fields.string("type");
  if (definition.pre_tokenizer.size() >= kMaxSteps) {
    throw DataError("{}: more than {} steps", fields.where(), kMaxSteps);
  }
  PreTokenizerStep step;
  if (type == "Sequence") {
    const MapJson& list = fields.array("pretokenizers");
    for (size_t i = 0; i < list.size(); ++i) {
      read_pre_tokenizer(Fields(list[i], fmt::format("{}.pretokenizers[{}]", fields.where(), i)),
                         definition);
    }
    return;
  }
  if (type == "Split") {
    step = split_step(fields);
  } else if (type == "Digits") {
    step.kind = PreTokenizerStep::Kind::digits;
    step.individual_digits = fields.bool_or("individual_digits", false);
  } else if (type == "ByteLevel") {
    step.add_prefix_space = fields.bool_or("add_prefix_space", true);
    step.use_regex = fields.bool_or("use_regex", true);
  } else {
    fields.refuse("type");
  }
  definition.pre_tokenizer.push_back(std::move(step));
}

// Those that add special tokens around a text leave the text's own ids alone.
void check_post_processor(const Fields& fields) {
  const std::string type = fields.string("type");
  if (type == "Sequence") {
    const MapJson& list = fields.array("processors");
    for (size_t i = 0; i < list.size(); ++i) {
      check_post_processor(Fields(list[i], fmt::format("{}.processors[{}]", fields.where(), i)));
    }
    return;
  }
  static constexpr std::array<std::string_view, 4> kHarmless = {
      "ByteLevel", "TemplateProcessing", "RobertaProcessing", "BertProcessing"};
  if (std::find(kHarmless.begin(), kHarmless.end(), type) == kHarmless.end()) {
    fields.refuse("type");
  }
}

}  // namespace

BpeDefinition read_bpe_definition(const std::string& tokenizer_json_path) {
  const std::string& path = tokenizer_json_path;
  const MapJson json = parse_map_json(read_file(path, kMaxTokenizerBytes), path);
  const Fields root(json, path);
  BpeDefinition definition;
  read_model(root.object("model"), definition);
  read_added_tokens(root, definition);
  if (root.has("normalizer")) read_normalizer(root.object("normalizer"), definition);
  if (!root.has("pre_tokenizer")) {
    throw DataError("{}: no pre_tokenizer; only byte-level BPE is implemented", path);
  }
  read_pre_tokenizer(root.object("pre_tokenizer"), definition);
  if (root.has("decoder") && root.object("decoder").string("type") != "ByteLevel") {
    root.object("decoder").refuse("type");
  }
  if (root.has("post_processor")) {
    check_post_processor(root.object("post_processor"));
    definition.post_processor = json["post_processor"].dump();
  }
  if (root.has("truncation")) {
    log::warning("{}: its truncation is not applied; block_size limits examples", path);
  }
  read_tokenizer_config(parent_path(path), definition);
  return definition;
}

}  // namespace train_sft
