// llama.cpp's names of a model's parameters (gguf-py/gguf/constants.py and tensor_mapping.py).
#pragma once

#include <string>

#include "train_sft/config/model_config.h"

namespace train_sft {

// "llama", "qwen2", "qwen3", "gpt2": the value of general.architecture, and the prefix of its keys.
std::string gguf_architecture(const ModelConfig& config);
// "model.layers.3.mlp.up_proj.weight" → "blk.3.ffn_up.weight". Throws InternalError for a name that
// parameter_layout() does not make.
std::string gguf_name(const std::string& parameter);

// How llama.cpp's tensor differs from the parameter: GPT-2's matrices are stored [out, in]; Llama's
// q and k rows in the order of its own rotary kernel.
enum class GgufOrder { same, transposed, permuted_q, permuted_k };
GgufOrder gguf_order(const ModelConfig& config, const std::string& parameter);

}  // namespace train_sft
