#include <algorithm>

#include "pre_tokenizer.h"
#include "train_sft/base/error.h"
#include "train_sft/text/bpe.h"

namespace train_sft {
namespace {

PreTokenizerStep split(std::string_view pattern) {
  PreTokenizerStep step;
  step.kind = PreTokenizerStep::Kind::split;
  step.pattern = pattern;
  return step;
}
PreTokenizerStep single_digits() {
  PreTokenizerStep step;
  step.kind = PreTokenizerStep::Kind::digits;
  step.individual_digits = true;
  return step;
}
PreTokenizerStep bytes(bool use_regex) {
  PreTokenizerStep step;
  step.use_regex = use_regex;
  return step;
}

struct Known {
  std::string_view name;
  std::vector<PreTokenizerStep> steps;
  Normalizer normalizer;
  bool ignore_merges;
};

// Names that mean the same settings stand together; the first is the one written.
const std::vector<Known>& known_names() {
  static const std::vector<Known> known = {
      {"gpt-2", {bytes(true)}, Normalizer::none, false},
      {"phi-2", {bytes(true)}, Normalizer::none, false},
      {"olmo", {bytes(true)}, Normalizer::nfc, false},
      {"smollm", {single_digits(), bytes(true)}, Normalizer::none, false},
      {"starcoder", {single_digits(), bytes(true)}, Normalizer::none, false},
      {"refact", {single_digits(), bytes(true)}, Normalizer::none, false},
      {"command-r", {single_digits(), bytes(true)}, Normalizer::nfc, false},
      {"llama-bpe", {split(kLlama3Pattern), bytes(false)}, Normalizer::none, true},
      {"llama3", {split(kLlama3Pattern), bytes(false)}, Normalizer::none, true},
      {"llama-v3", {split(kLlama3Pattern), bytes(false)}, Normalizer::none, true},
      {"qwen2", {split(kQwen2Pattern), bytes(false)}, Normalizer::nfc, false},
      {"deepseek-r1-qwen", {split(kQwen2Pattern), bytes(false)}, Normalizer::nfc, false},
  };
  return known;
}

bool same_step(const PreTokenizerStep& a, const PreTokenizerStep& b) {
  if (a.kind != b.kind) return false;
  switch (a.kind) {
    case PreTokenizerStep::Kind::split:
      return a.pattern == b.pattern;
    case PreTokenizerStep::Kind::digits:
      return a.individual_digits == b.individual_digits;
    case PreTokenizerStep::Kind::byte_level:
      return a.use_regex == b.use_regex && a.add_prefix_space == b.add_prefix_space;
  }
  return false;
}

}  // namespace

void apply_gguf_pre_tokenizer(const std::string& name, BpeDefinition& definition,
                              const std::string& where) {
  std::string names;
  for (const Known& known : known_names()) {
    if (known.name == name) {
      definition.pre_tokenizer = known.steps;
      definition.normalizer = known.normalizer;
      definition.ignore_merges = known.ignore_merges;
      return;
    }
    names += (names.empty() ? "" : ", ") + std::string(known.name);
  }
  throw DataError(
      "{}: tokenizer.ggml.pre '{}' is not implemented; known are {}. Give the model's "
      "tokenizer.json by --tokenizer instead.",
      where, name, names);
}

std::optional<std::string> gguf_pre_tokenizer_name(const BpeDefinition& definition) {
  for (const Known& known : known_names()) {
    // GGUF's runtimes do not normalise, so the normaliser need not agree.
    if (known.ignore_merges == definition.ignore_merges &&
        std::equal(known.steps.begin(), known.steps.end(), definition.pre_tokenizer.begin(),
                   definition.pre_tokenizer.end(), same_step)) {
      return std::string(known.name);
    }
  }
  return std::nullopt;
}

}  // namespace train_sft
