// Tokenizers as Hugging Face files: tokenizer.json and tokenizer_config.json.
#pragma once

#include <string>

#include "segment.h"
#include "sentencepiece_model.h"
#include "train_sft/base/json.h"
#include "train_sft/text/bpe.h"

namespace train_sft {

// segmenter: of a model whose text is cut before encoding; null for a foreign model, whose own
// normalisation is spelled out instead.
Json huggingface_tokenizer(const SentencepieceModel& model, const Segmenter* segmenter);

// The contents of a tokenizer.json.
std::string bpe_tokenizer_json(const BpeDefinition& definition);

struct SpecialNames {
  std::string bos, eos, pad, unk;  // "" when there is none
};
Json huggingface_tokenizer_config(const SpecialNames& names,
                                  const std::string& jinja_chat_template);

}  // namespace train_sft
