#include <algorithm>
#include <utility>

#include "tokenizer_json.h"

namespace train_sft {
namespace {

// Appends without looking for the key first, which Json's objects do one by one.
void append(Json& object, std::string key, Json value) {
  object.get_ref<Json::object_t&>().emplace_back(std::move(key), std::move(value));
}

// `tokenizers` gives added tokens that the model's vocabulary lacks the next ids in order. That is
// right for those after the last ordinary token, if no id before is unused; else all of them are
// put into the vocabulary.
Json vocabulary(const BpeDefinition& definition) {
  std::vector<bool> added(definition.tokens.size(), false);
  for (const AddedToken& token : definition.added_tokens) {
    added[static_cast<size_t>(token.id)] = true;
  }
  size_t end = definition.tokens.size();
  const bool holes = std::any_of(definition.tokens.begin(), definition.tokens.end(),
                                 [](const std::string& token) { return token.empty(); });
  while (!holes && end > 0 && added[end - 1]) --end;
  Json vocab = Json::object();
  vocab.get_ref<Json::object_t&>().reserve(end);
  for (size_t id = 0; id < end; ++id) {
    if (!definition.tokens[id].empty()) append(vocab, definition.tokens[id], id);
  }
  return vocab;
}

Json added_tokens(const BpeDefinition& definition) {
  Json tokens = Json::array();
  for (const AddedToken& token : definition.added_tokens) {
    tokens.push_back({{"id", token.id},
                      {"content", token.content},
                      {"single_word", token.single_word},
                      {"lstrip", token.lstrip},
                      {"rstrip", token.rstrip},
                      {"normalized", token.normalized},
                      {"special", token.special}});
  }
  return tokens;
}

Json step_json(const PreTokenizerStep& step) {
  switch (step.kind) {
    case PreTokenizerStep::Kind::split:
      return {{"type", "Split"},
              {"pattern", {{"Regex", step.pattern}}},
              {"behavior", "Isolated"},
              {"invert", false}};
    case PreTokenizerStep::Kind::digits:
      return {{"type", "Digits"}, {"individual_digits", step.individual_digits}};
    case PreTokenizerStep::Kind::byte_level:
      break;
  }
  return {{"type", "ByteLevel"},
          {"add_prefix_space", step.add_prefix_space},
          {"trim_offsets", true},
          {"use_regex", step.use_regex}};
}

Json pre_tokenizer_json(const std::vector<PreTokenizerStep>& steps) {
  if (steps.size() == 1) return step_json(steps[0]);
  Json list = Json::array();
  for (const PreTokenizerStep& step : steps) list.push_back(step_json(step));
  return {{"type", "Sequence"}, {"pretokenizers", std::move(list)}};
}

}  // namespace

std::string bpe_tokenizer_json(const BpeDefinition& definition) {
  Json merges = Json::array();
  for (const auto& [left, right] : definition.merges) merges.push_back(Json::array({left, right}));
  Json model = {{"type", "BPE"},
                {"dropout", nullptr},
                {"unk_token", nullptr},
                {"continuing_subword_prefix", nullptr},
                {"end_of_word_suffix", nullptr},
                {"fuse_unk", false},
                {"byte_fallback", false},
                {"ignore_merges", definition.ignore_merges},
                {"vocab", vocabulary(definition)},
                {"merges", std::move(merges)}};
  Json json = {
      {"version", "1.0"},
      {"truncation", nullptr},
      {"padding", nullptr},
      {"added_tokens", added_tokens(definition)},
      {"normalizer", definition.normalizer == Normalizer::nfc ? Json{{"type", "NFC"}} : Json()},
      {"pre_tokenizer", pre_tokenizer_json(definition.pre_tokenizer)},
      {"post_processor", definition.post_processor.empty()
                             ? Json()
                             : parse_json(definition.post_processor, "post_processor")},
      {"decoder",
       {{"type", "ByteLevel"},
        {"add_prefix_space", true},
        {"trim_offsets", true},
        {"use_regex", true}}},
      {"model", std::move(model)}};
  return dump_json(json, -1);
}

}  // namespace train_sft
