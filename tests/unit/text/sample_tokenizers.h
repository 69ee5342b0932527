// Small tokenizers of each type, trained once a test program.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "train_sft/text/tokenizer.h"

namespace train_sft {

inline std::vector<std::string> sample_documents() {
  std::vector<std::string> documents;
  const std::vector<std::string> subjects = {"the cat", "A dog", "our neighbour", "Ünal", "she"};
  const std::vector<std::string> verbs = {"walks", "banana", "sings loudly", "counts to 1234",
                                          "waits"};
  for (const std::string& subject : subjects) {
    for (const std::string& verb : verbs) {
      documents.push_back(subject + " " + verb + " in the  garden.\n\n    if (x<y) {\n\treturn \"" +
                          verb + "\";\n}\n<span>été</span> aaaa abab " + subject + "\n");
    }
  }
  return documents;
}

inline const Tokenizer& sample_tokenizer(const std::string& type) {
  static const auto make = [](const std::string& t) {
    TokenizerTraining training;
    training.type = t;
    training.vocab_size = 480;
    return tokenizer_from_model(train_tokenizer(sample_documents(), training), t);
  };
  static const std::unique_ptr<Tokenizer> bpe = make("bpe");
  static const std::unique_ptr<Tokenizer> unigram = make("unigram");
  static const std::unique_ptr<Tokenizer> character = make("char");
  return type == "bpe" ? *bpe : type == "unigram" ? *unigram : *character;
}

// sentencepiece's compiled rules with one: "A" becomes "b". `units` are those of its trie.
inline std::string normalization_map(const std::vector<uint32_t>& units) {
  const auto bytes = static_cast<uint32_t>(4 * units.size());
  std::string map(reinterpret_cast<const char*>(&bytes), 4);
  map.append(reinterpret_cast<const char*>(units.data()), bytes);
  return map + std::string("b\0", 2);
}
inline std::vector<uint32_t> units_of_one_rule() {
  std::vector<uint32_t> units(512);
  units[0] = 256 << 10;                       // its children are at 256 ^ byte
  units[256 ^ 'A'] = 1 << 10 | 1 << 8 | 'A';  // ends a rule: its value is one place before
  units[256 ^ 'A' ^ 1] = 1U << 31;            // the text at 0
  return units;
}

// A later message of a field is merged into the earlier one.
inline std::string with_normalization_map(const std::string& model, const std::string& map,
                                          char field = 3) {
  const auto part = [](char number, const std::string& bytes) {
    std::string out(1, static_cast<char>(number << 3 | 2));
    out += static_cast<char>(0x80 | (bytes.size() & 0x7F));
    out += static_cast<char>(bytes.size() >> 7);
    return out + bytes;
  };
  return model + part(field, part(2, map));
}

}  // namespace train_sft
