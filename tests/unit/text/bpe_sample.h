// A small byte-level BPE, made by hand.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "text/byte_alphabet.h"
#include "text/pre_tokenizer.h"
#include "train_sft/text/bpe.h"

namespace train_sft {

inline BpeDefinition sample_bpe() {
  BpeDefinition definition;
  for (int byte = 0; byte < 256; ++byte) {
    definition.tokens.push_back(to_byte_alphabet(std::string(1, static_cast<char>(byte))));
  }
  const std::vector<std::pair<std::string, std::string>> merges = {
      {"t", "h"}, {"th", "e"}, {" ", "the"}, {"a", "b"}, {"ab", "ab"}, {"a", "a"}, {"aa", "aa"}};
  for (const auto& [left, right] : merges) {
    definition.merges.emplace_back(to_byte_alphabet(left), to_byte_alphabet(right));
    definition.tokens.push_back(to_byte_alphabet(left + right));
  }
  for (const char* name : {"<|end|>", "<|user|>"}) {
    definition.added_tokens.push_back({static_cast<int32_t>(definition.tokens.size()), name, true});
    definition.tokens.emplace_back(name);
  }
  definition.added_tokens.push_back({static_cast<int32_t>(definition.tokens.size()), "    "});
  definition.tokens.emplace_back("    ");
  definition.pre_tokenizer = {PreTokenizerStep{}};
  definition.eos_id = definition.added_tokens[0].id;
  return definition;
}

inline PreTokenizerStep split_step(std::string_view pattern) {
  PreTokenizerStep step;
  step.kind = PreTokenizerStep::Kind::split;
  step.pattern = pattern;
  return step;
}

inline BpeDefinition sample_bpe_with(std::string_view pattern) {
  BpeDefinition definition = sample_bpe();
  PreTokenizerStep bytes;
  bytes.use_regex = false;
  definition.pre_tokenizer = {split_step(pattern), bytes};
  return definition;
}

}  // namespace train_sft
