#include "interop/gguf_tokenizer.h"

#include <algorithm>

#include "text/sentencepiece_model.h"
#include "train_sft/base/error.h"
#include "train_sft/base/file.h"
#include "train_sft/base/json.h"
#include "train_sft/text/bpe.h"
#include "train_sft/text/chat_template.h"

namespace train_sft {
namespace {

// tokenizer.ggml.token_type.
enum TokenType : int32_t { kNormal = 1, kUnknown, kControl, kUserDefined, kUnused, kByte };

const std::string kTokenizerPrefix = "tokenizer.ggml.";

// ---- reading

// "Ġa b": the space stands between the parts, neither of which can hold one.
std::pair<std::string, std::string> merge_parts(const std::string& merge, const GgufFile& file) {
  const size_t space = merge.find(' ', 1);
  if (space == merge.npos || space + 1 == merge.size() || merge.find(' ', space + 1) != merge.npos)
    throw CheckpointError("{}: metadata 'tokenizer.ggml.merges' holds '{}', expected two parts",
                          file.path(), merge);
  return {merge.substr(0, space), merge.substr(space + 1)};
}

int32_t id_or_none(const GgufFile& file, const char* key, size_t tokens) {
  const int64_t id = file.integer_or(kTokenizerPrefix + key, -1);
  if (id >= static_cast<int64_t>(tokens))
    throw CheckpointError("{}: metadata '{}{}' is {}, but there are {} tokens", file.path(),
                          kTokenizerPrefix, key, id, tokens);
  return id < 0 ? -1 : static_cast<int32_t>(id);
}

void read_token_types(const GgufFile& file, BpeDefinition& definition) {
  const auto types = file.integers(kTokenizerPrefix + "token_type");
  if (!types.empty() && types.size() != definition.tokens.size())
    throw CheckpointError("{}: {} token types for {} tokens", file.path(), types.size(),
                          definition.tokens.size());
  for (size_t id = 0; id < types.size(); ++id) {
    std::string& token = definition.tokens[id];
    if (types[id] == kUnused) {
      token.clear();
    } else if (types[id] == kControl || types[id] == kUserDefined || types[id] == kUnknown) {
      AddedToken added;
      added.id = static_cast<int32_t>(id);
      added.content = token;
      added.special = types[id] != kUserDefined;
      definition.added_tokens.push_back(std::move(added));
    }
  }
}

// Models whose text begins with bos say so; a post-processor tells tokenizers the same.
std::string bos_post_processor(const GgufFile& file, const BpeDefinition& definition) {
  if (!file.flag_or(kTokenizerPrefix + "add_bos_token", false) || definition.bos_id < 0) return "";
  const std::string& bos = definition.tokens[static_cast<size_t>(definition.bos_id)];
  const Json single = {{{"SpecialToken", {{"id", bos}, {"type_id", 0}}}},
                       {{"Sequence", {{"id", "A"}, {"type_id", 0}}}}};
  Json pair = single;
  pair.push_back({{"SpecialToken", {{"id", bos}, {"type_id", 1}}}});
  pair.push_back({{"Sequence", {{"id", "B"}, {"type_id", 1}}}});
  const Json special = {{"id", bos}, {"ids", {definition.bos_id}}, {"tokens", {bos}}};
  return Json{{"type", "TemplateProcessing"},
              {"single", single},
              {"pair", pair},
              {"special_tokens", {{bos, special}}}}
      .dump(-1, ' ', false, Json::error_handler_t::replace);  // a token may be any bytes
}

BpeDefinition read_definition(const GgufFile& file) {
  BpeDefinition definition;
  definition.tokens = file.texts(kTokenizerPrefix + "tokens");
  const size_t count = definition.tokens.size();
  for (const std::string& merge : file.texts(kTokenizerPrefix + "merges"))
    definition.merges.push_back(merge_parts(merge, file));
  read_token_types(file, definition);
  definition.bos_id = id_or_none(file, "bos_token_id", count);
  definition.eos_id = id_or_none(file, "eos_token_id", count);
  definition.pad_id = id_or_none(file, "padding_token_id", count);
  definition.post_processor = bos_post_processor(file, definition);
  apply_gguf_pre_tokenizer(file.text_or(kTokenizerPrefix + "pre", "gpt-2"), definition,
                           file.path());
  return definition;
}

// ---- writing

struct Vocabulary {
  std::vector<std::string> tokens;
  std::vector<int32_t> types;

  // A token a row of the embedding; those without one get a name.
  void fill(int64_t rows) {
    const size_t count = std::max(tokens.size(), static_cast<size_t>(rows));
    tokens.resize(count);
    types.resize(count, kUnused);
    for (size_t id = 0; id < tokens.size(); ++id)
      if (tokens[id].empty()) {
        tokens[id] = fmt::format("[PAD{}]", id);
        types[id] = kUnused;
      }
  }
};

Json tokenizer_config(const std::string& directory) {
  const std::string path = join_path(directory, "tokenizer_config.json");
  if (!path_exists(path)) return Json::object();
  Json json = read_json_file(path);
  return json.is_object() ? json : Json::object();
}

std::string add_bpe(GgufWriter& writer, const BpeTokenizer& tokenizer, int64_t rows,
                    const std::string& directory) {
  const BpeDefinition& definition = tokenizer.definition();
  const auto pre = gguf_pre_tokenizer_name(definition);
  if (!pre)
    throw CheckpointError(
        "{}: GGUF has no name for the way its tokenizer cuts text into words; export it as "
        "--format hf",
        directory);
  Vocabulary vocabulary{definition.tokens, std::vector<int32_t>(definition.tokens.size(), kNormal)};
  for (const AddedToken& added : definition.added_tokens) {
    const auto id = static_cast<size_t>(added.id);
    vocabulary.tokens[id] = added.content;
    vocabulary.types[id] = added.special ? kControl : kUserDefined;
  }
  vocabulary.fill(rows);
  std::vector<std::string> merges;
  for (const auto& [left, right] : definition.merges) merges.push_back(left + " " + right);
  writer.add(kTokenizerPrefix + "model", std::string("gpt2"));
  writer.add(kTokenizerPrefix + "pre", *pre);
  writer.add(kTokenizerPrefix + "tokens", vocabulary.tokens);
  writer.add(kTokenizerPrefix + "token_type", vocabulary.types);
  writer.add(kTokenizerPrefix + "merges", merges);
  return definition.normalizer == Normalizer::nfc
             ? "its tokenizer brings text to NFC first, which llama.cpp does not"
             : "";
}

std::string add_sentencepiece(GgufWriter& writer, const std::string& path, int64_t rows) {
  const SentencepieceModel model = parse_sentencepiece_model(read_file(path), path);
  const bool unigram = model.type == SentencepieceModel::ModelType::unigram;
  Vocabulary vocabulary;
  std::vector<float> scores;
  for (const auto& piece : model.pieces) {
    vocabulary.tokens.push_back(piece.text);
    vocabulary.types.push_back(static_cast<int32_t>(piece.type));
    scores.push_back(piece.score);
  }
  vocabulary.fill(rows);
  scores.resize(vocabulary.tokens.size(), -10000.0f);
  writer.add(kTokenizerPrefix + "model", std::string(unigram ? "t5" : "llama"));
  writer.add(kTokenizerPrefix + "pre", std::string("default"));
  writer.add(kTokenizerPrefix + "tokens", vocabulary.tokens);
  writer.add(kTokenizerPrefix + "scores", scores);
  writer.add(kTokenizerPrefix + "token_type", vocabulary.types);
  writer.add(kTokenizerPrefix + "add_space_prefix", model.add_dummy_prefix);
  writer.add(kTokenizerPrefix + "remove_extra_whitespaces", model.remove_extra_whitespaces);
  return model.normalization_map.empty()
             ? ""
             : "its tokenizer normalises text first, which llama.cpp does not";
}

void add_id(GgufWriter& writer, const char* key, int32_t id) {
  if (id >= 0) writer.add(kTokenizerPrefix + key, static_cast<uint32_t>(id));
}

}  // namespace

std::unique_ptr<Tokenizer> tokenizer_of_gguf(const GgufFile& file) {
  const std::string kind = file.text_or(kTokenizerPrefix + "model", "none");
  if (kind == "none" || kind == "no_vocab") return nullptr;
  if (kind != "gpt2")
    throw CheckpointError(
        "{}: metadata 'tokenizer.ggml.model' is '{}'; only gpt2 (byte-level BPE) is implemented: "
        "give the model's own tokenizer files with --tokenizer",
        file.path(), kind);
  try {
    return bpe_tokenizer(read_definition(file), file.path());
  } catch (const DataError& error) {
    throw CheckpointError("{}", error.what());
  }
}

std::string add_tokenizer(GgufWriter& writer, const std::string& directory, int64_t rows) {
  const auto tokenizer = load_tokenizer(directory);
  std::string difference;
  if (const auto* bpe = dynamic_cast<const BpeTokenizer*>(tokenizer.get())) {
    difference = add_bpe(writer, *bpe, rows, directory);
  } else {
    difference = add_sentencepiece(writer, join_path(directory, "tokenizer.model"), rows);
  }
  add_id(writer, "bos_token_id", tokenizer->bos_id());
  add_id(writer, "eos_token_id", tokenizer->eos_id());
  add_id(writer, "padding_token_id", tokenizer->pad_id());
  const Json config = tokenizer_config(directory);
  const auto add_bos = config.find("add_bos_token");
  writer.add(kTokenizerPrefix + "add_bos_token",
             add_bos != config.end() && add_bos->is_boolean() && add_bos->get<bool>());
  const std::string chat = stored_chat_template(directory);
  if (!chat.empty()) writer.add("tokenizer.chat_template", chat);
  return difference;
}

}  // namespace train_sft
