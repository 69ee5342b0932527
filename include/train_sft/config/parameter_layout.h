// A model's parameters by name, shape and place in one flat buffer. Names, shapes and layouts are
// those of transformers (GPT-2: Conv1D matrices [in, out]; Llama: Linear matrices [out, in]), so a
// checkpoint is the buffer cut at the names. q, k, v and gate, up of a Llama layer stand one after
// another and serve as one matrix each.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "train_sft/config/model_config.h"

namespace train_sft {

struct ParameterInfo {
  std::string name;  // "model.layers.0.self_attn.q_proj.weight"
  std::vector<int64_t> shape;
  int64_t offset = 0;  // elements from the start of the flat buffer
  int64_t numel = 0;
  bool decay = false;  // matrices decay; biases, norms do not
  int64_t layer = -1;  // -1: embeddings, final norm, head
};

// In buffer order: embeddings, layers, final norm, untied head. A parameter (or a group that serves
// as one matrix) begins at a multiple of 64 bytes; the gaps are zero and stay zero.
struct ParameterLayout {
  std::vector<ParameterInfo> parameters;
  int64_t total = 0;      // elements of the flat buffer, gaps included
  int64_t count() const;  // parameters proper, tied weights once
};
ParameterLayout parameter_layout(const ModelConfig& config);

}  // namespace train_sft
