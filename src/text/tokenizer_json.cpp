#include "tokenizer_json.h"

#include <algorithm>
#include <cstdint>
#include <unordered_map>
#include <utility>
#include <vector>

#include "spaces.h"
#include "train_sft/base/error.h"

namespace train_sft {
namespace {

using PieceType = SentencepieceModel::PieceType;
using ModelType = SentencepieceModel::ModelType;

std::string base64(std::string_view bytes) {
  static constexpr std::string_view kDigits =
      "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
  std::string out;
  for (size_t i = 0; i < bytes.size(); i += 3) {
    uint32_t group = 0;
    for (size_t j = 0; j < 3; ++j) {
      group = group << 8 | (i + j < bytes.size() ? static_cast<unsigned char>(bytes[i + j]) : 0U);
    }
    for (size_t j = 0; j < 4; ++j) {
      out += i + j <= bytes.size() ? kDigits[group >> (18 - 6 * j) & 63] : '=';
    }
  }
  return out;
}

bool is_text_piece(const SentencepieceModel::Piece& piece) {
  return piece.type == PieceType::normal || piece.type == PieceType::user_defined;
}

// Hugging Face matches every vocabulary entry in text; sentencepiece only the text pieces. Names of
// the others cannot occur in a segment, or (foreign models) must never win.
std::vector<std::string> vocabulary_names(const SentencepieceModel& model, bool literal_spaces) {
  std::vector<std::string> names;
  names.reserve(model.pieces.size());
  for (const auto& piece : model.pieces) {
    names.push_back(literal_spaces && is_text_piece(piece) ? with_spaces(piece.text) : piece.text);
  }
  return names;
}

// sentencepiece merges the neighbours whose concatenation is the piece of highest score; so every
// way to cut a piece in two is a merge, in order of the whole's score.
Json bpe_merges(const SentencepieceModel& model, const std::vector<std::string>& names) {
  std::unordered_map<std::string_view, size_t> id_of;
  std::vector<size_t> order;
  for (size_t id = 0; id < names.size(); ++id) {
    if (model.pieces[id].type != PieceType::normal) continue;
    id_of.emplace(names[id], id);
    order.push_back(id);
  }
  std::stable_sort(order.begin(), order.end(), [&](size_t a, size_t b) {
    return model.pieces[a].score > model.pieces[b].score;
  });
  Json merges = Json::array();
  for (const size_t id : order) {
    const std::string_view whole = names[id];
    std::vector<std::pair<size_t, size_t>> pairs;
    for (size_t cut = 1; cut < whole.size(); ++cut) {
      const auto left = id_of.find(whole.substr(0, cut));
      const auto right = id_of.find(whole.substr(cut));
      if (left == id_of.end() || right == id_of.end()) continue;
      pairs.emplace_back(left->second, right->second);
    }
    std::sort(pairs.begin(), pairs.end());
    for (const auto& [left, right] : pairs) {
      merges.push_back(Json::array({names[left], names[right]}));
    }
  }
  return merges;
}

Json bpe_model(const SentencepieceModel& model, const std::vector<std::string>& names,
               const std::string& unk) {
  Json vocab = Json::object();
  for (size_t id = 0; id < names.size(); ++id) vocab[names[id]] = id;
  const bool merges = model.type == ModelType::bpe;
  return {{"type", "BPE"},
          {"dropout", nullptr},
          {"unk_token", unk},
          {"continuing_subword_prefix", nullptr},
          {"end_of_word_suffix", nullptr},
          {"fuse_unk", true},
          {"byte_fallback", model.byte_fallback},
          {"ignore_merges", false},
          {"vocab", std::move(vocab)},
          {"merges", merges ? bpe_merges(model, names) : Json::array()}};
}

Json unigram_model(const SentencepieceModel& model, const std::vector<std::string>& names,
                   size_t unk_id) {
  float lowest = 0;
  for (const auto& piece : model.pieces) {
    if (piece.type == PieceType::normal) lowest = std::min(lowest, piece.score);
  }
  Json vocab = Json::array();
  for (size_t id = 0; id < names.size(); ++id) {
    const auto& piece = model.pieces[id];
    // Equal to the lowest: does not move the score of unknown characters, which hangs on it.
    const float score = is_text_piece(piece) ? piece.score : lowest;
    vocab.push_back(Json::array({names[id], static_cast<double>(score)}));
  }
  return {{"type", "Unigram"},
          {"unk_id", unk_id},
          {"vocab", std::move(vocab)},
          {"byte_fallback", model.byte_fallback}};
}

Json foreign_normalizer(const SentencepieceModel& model) {
  Json steps = Json::array();
  if (!model.normalization_map.empty()) {
    steps.push_back(
        {{"type", "Precompiled"}, {"precompiled_charsmap", base64(model.normalization_map)}});
  }
  if (model.remove_extra_whitespaces) {
    steps.push_back({{"type", "Strip"}, {"strip_left", true}, {"strip_right", true}});
    steps.push_back({{"type", "Replace"}, {"pattern", {{"Regex", " {2,}"}}}, {"content", " "}});
  }
  if (model.add_dummy_prefix) {
    steps.push_back({{"type", "Prepend"}, {"prepend", std::string(kSpaceSymbol)}});
  }
  steps.push_back({{"type", "Replace"},
                   {"pattern", {{"String", " "}}},
                   {"content", std::string(kSpaceSymbol)}});
  return {{"type", "Sequence"}, {"normalizers", std::move(steps)}};
}

Json decoder(const SentencepieceModel& model, bool literal_spaces) {
  Json steps = Json::array();
  if (!literal_spaces) {
    steps.push_back({{"type", "Replace"},
                     {"pattern", {{"String", std::string(kSpaceSymbol)}}},
                     {"content", " "}});
  }
  steps.push_back({{"type", "ByteFallback"}});
  steps.push_back({{"type", "Fuse"}});
  if (!literal_spaces && model.add_dummy_prefix) {
    steps.push_back({{"type", "Strip"}, {"content", " "}, {"start", 1}, {"stop", 0}});
  }
  return {{"type", "Sequence"}, {"decoders", std::move(steps)}};
}

Json added_tokens(const SentencepieceModel& model) {
  Json tokens = Json::array();
  for (size_t id = 0; id < model.pieces.size(); ++id) {
    const auto& piece = model.pieces[id];
    const bool special = piece.type == PieceType::control || piece.type == PieceType::unknown;
    if (!special && piece.type != PieceType::user_defined) continue;
    tokens.push_back({{"id", id},
                      {"content", piece.text},
                      {"single_word", false},
                      {"lstrip", false},
                      {"rstrip", false},
                      {"normalized", false},
                      {"special", special}});
  }
  return tokens;
}

}  // namespace

Json huggingface_tokenizer(const SentencepieceModel& model, const Segmenter* segmenter) {
  // With a segmenter the vocabulary holds real spaces: U+2581 in a text is then just a character.
  const bool literal_spaces = segmenter != nullptr;
  const std::vector<std::string> names = vocabulary_names(model, literal_spaces);
  size_t unk_id = 0;
  while (unk_id < names.size() && model.pieces[unk_id].type != PieceType::unknown) ++unk_id;
  TRAIN_SFT_CHECK(unk_id < names.size(), "a sentencepiece model has an unknown piece");

  Json pre_tokenizer;
  if (segmenter != nullptr) {
    pre_tokenizer = {{"type", "Split"},
                     {"pattern", {{"Regex", segmenter->regex()}}},
                     {"behavior", "Isolated"},
                     {"invert", false}};
  }
  return {{"version", "1.0"},
          {"truncation", nullptr},
          {"padding", nullptr},
          {"added_tokens", added_tokens(model)},
          {"normalizer", segmenter == nullptr ? foreign_normalizer(model) : Json()},
          {"pre_tokenizer", std::move(pre_tokenizer)},
          {"post_processor", nullptr},
          {"decoder", decoder(model, literal_spaces)},
          {"model", model.type == ModelType::unigram ? unigram_model(model, names, unk_id)
                                                     : bpe_model(model, names, names[unk_id])}};
}

Json huggingface_tokenizer_config(const SpecialNames& names,
                                  const std::string& jinja_chat_template) {
  Json config = {{"tokenizer_class", "PreTrainedTokenizerFast"},
                 {"clean_up_tokenization_spaces", false}};
  const std::pair<const char*, const std::string*> tokens[] = {{"bos_token", &names.bos},
                                                               {"eos_token", &names.eos},
                                                               {"pad_token", &names.pad},
                                                               {"unk_token", &names.unk}};
  for (const auto& [key, name] : tokens) {
    if (!name->empty()) config[key] = *name;
  }
  if (!jinja_chat_template.empty()) config["chat_template"] = jinja_chat_template;
  return config;
}

}  // namespace train_sft
