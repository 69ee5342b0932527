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

}  // namespace train_sft
