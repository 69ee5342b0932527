// The shape of a model: what a Hugging Face GPT-2, Llama or Qwen configuration can express, nothing
// else, so that every checkpoint loads there.
#pragma once

#include <cstdint>
#include <string>

#include "train_sft/base/json.h"

namespace train_sft {

enum class Family {
  gpt2,   // learned positions, LayerNorm, GELU (tanh), biases
  llama,  // RoPE, RMSNorm, SwiGLU, grouped-query attention, no biases (Qwen2: on q, k, v; Qwen3:
          // none, but q and k are normalised head by head)
};

struct ModelConfig {
  Family family = Family::gpt2;
  int64_t n_layer = 12;
  int64_t n_head = 12;
  int64_t n_kv_head = 0;  // 0: n_head; llama only
  int64_t n_embd = 768;
  int64_t head_size = 0;   // 0: n_embd / n_head; llama only
  int64_t ffn_hidden = 0;  // 0: 4*n_embd (gpt2); 8/3*n_embd rounded up to a multiple of 64 (llama)
  int64_t vocab_size = 0;  // rows of the embedding, ≥ the tokenizer's size
  int64_t block_size = 1024;  // longest sequence; gpt2: rows of the position table
  bool tie_embeddings = true;
  bool qkv_bias = false;  // llama family only: Qwen2's biases on q, k, v (gpt2 always has biases)
  bool qk_norm = false;   // llama family only: Qwen3's RMSNorm of each head of q and k
  double norm_eps = 1e-5;
  double rope_theta = 10000.0;

  int64_t kv_heads() const { return n_kv_head > 0 ? n_kv_head : n_head; }
  int64_t head_dim() const { return head_size > 0 ? head_size : n_embd / n_head; }
  int64_t attention_width() const { return n_head * head_dim(); }  // of all query heads together
  int64_t ffn() const;
  bool operator==(const ModelConfig&) const = default;
};

// For people and their scripts (inspect, run.json): every field with its derived value.
Json shape_json(const ModelConfig& config);

// Throws UsageError naming the option: n_embd not divisible by n_head, head_dim odd with RoPE, ...
void validate(const ModelConfig& config);

// config.json of transformers (model_type gpt2, llama, qwen2 or qwen3) and back. Reading throws
// CheckpointError naming a field that would change the maths and is not implemented.
Json to_huggingface(const ModelConfig& config, int bos_id, int eos_id, int pad_id);
ModelConfig from_huggingface(const Json& config, const std::string& where);

}  // namespace train_sft
