// Models, tokenizers and gradients small enough for unit tests.
#pragma once

#include <ATen/core/Tensor.h>

#include <memory>
#include <string>

#include "train_sft/base/rng.h"
#include "train_sft/model/parameters.h"
#include "train_sft/text/tokenizer.h"

namespace train_sft {

inline const Tokenizer& letters_tokenizer() {
  static const auto tokenizer = [] {
    TokenizerTraining training;
    training.type = "char";
    training.vocab_size = 1000;
    return tokenizer_from_model(
        train_tokenizer({"abcdefghijklmnopqrstuvwxyz ABCDEFGHIJKLMNOPQRSTUVWXYZ.,!?\n"}, training),
        "test");
  }();
  return *tokenizer;
}

inline ModelConfig small_gpt2() {
  ModelConfig config;
  config.n_layer = 2;
  config.n_head = 2;
  config.n_embd = 16;
  config.block_size = 32;
  config.vocab_size = letters_tokenizer().vocab_size();
  return config;
}

inline ModelConfig small_llama() {
  ModelConfig config = small_gpt2();
  config.family = Family::llama;
  config.n_head = 4;
  config.n_kv_head = 2;
  config.tie_embeddings = false;
  return config;
}

inline ModelConfig small_qwen() {
  ModelConfig config = small_llama();
  config.qkv_bias = true;
  config.tie_embeddings = true;
  return config;
}

// Every parameter proper gets a value; the gaps of the flat buffer stay zero.
inline void fill_random(const ParameterLayout& layout, const at::Tensor& flat, uint64_t stream,
                        double scale) {
  const CounterRng rng(7, stream);
  auto* values = flat.data_ptr<float>();
  for (const auto& parameter : layout.parameters)
    for (int64_t i = 0; i < parameter.numel; ++i) {
      const auto place = static_cast<uint64_t>(parameter.offset + i);
      values[place] = static_cast<float>(scale * rng.normal(place));
    }
}

}  // namespace train_sft
