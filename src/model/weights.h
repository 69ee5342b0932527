// The parameters as the engine and the decoder use them: views made once, both families in one
// shape.
#pragma once

#include <ATen/core/Tensor.h>

#include <vector>

#include "train_sft/model/parameters.h"
#include "train_sft/ops/linear.h"
#include "train_sft/ops/lora.h"

namespace train_sft {

// Undefined tensors are parts that the family lacks, or gradients of what is frozen or was made
// without them.
struct NormWeights {
  at::Tensor weight, bias;
  at::Tensor grad_weight, grad_bias;
};

struct LinearWeights {
  at::Tensor weight, bias;
  at::Tensor grad_weight, grad_bias;
  ops::Lora lora;    // undefined: none
  int64_t fp8 = -1;  // its number among those with 8-bit operands
};

struct LayerWeights {
  NormWeights norm1;
  LinearWeights qkv;
  LinearWeights proj;
  NormWeights norm2;
  LinearWeights up;  // Llama: gate and up as one matrix
  LinearWeights down;
  NormWeights q_norm, k_norm;  // Qwen3
};

struct ModelWeights {
  ops::WeightLayout layout = ops::WeightLayout::in_out;
  at::Tensor embedding, grad_embedding;
  at::Tensor position, grad_position;  // GPT-2's learned positions
  std::vector<LayerWeights> layers;
  NormWeights final_norm;
  at::Tensor head, grad_head;  // the embedding itself when tied
};

ModelWeights model_weights(const Parameters& parameters);

}  // namespace train_sft
