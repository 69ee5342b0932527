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

// Which parameters a run changes; by default all.
struct Training {
  // LoRA (Hu et al. 2021): the model's own parameters are frozen, and each target's output gets
  // alpha / rank · B·A·x on top, with A [rank, in] and B [out, rank]. 0: none.
  int64_t lora_rank = 0;
  double lora_alpha = 0;
  std::vector<std::string> lora_targets;  // ends of module names, "q_proj"; empty: every linear one
  std::vector<std::string> freeze;        // shell patterns of parameters' names

  bool adapts() const { return lora_rank > 0; }
  double lora_scale() const { return lora_alpha / static_cast<double>(lora_rank); }
};

struct ParameterInfo {
  std::string name;  // "model.layers.0.self_attn.q_proj.weight"
  std::vector<int64_t> shape;
  int64_t offset = 0;  // elements from the start of the flat buffer
  int64_t numel = 0;
  bool decay = false;           // matrices decay; biases, norms do not
  int64_t layer = -1;           // -1: embeddings, final norm, head
  int64_t group = 0;            // parameters of one group serve as one matrix
  bool adapter = false;         // not the model's own: an A or B of LoRA, by PEFT's name for it
  int64_t trained_offset = -1;  // its place in the buffers of what is trained; -1: frozen

  bool trained() const { return trained_offset >= 0; }
};

// In buffer order: embeddings, layers, final norm, untied head, adapters. A parameter (or a group
// that serves as one matrix) begins at a multiple of 64 bytes; the gaps are zero and stay zero.
// Gradients and moments exist of the trained parameters alone, in buffers laid out alike: without
// frozen ones trained_offset is offset.
struct ParameterLayout {
  std::vector<ParameterInfo> parameters;
  int64_t total = 0;              // elements of the flat buffer, gaps included
  int64_t trained_total = 0;      // elements of a buffer of what is trained
  int64_t count() const;          // the model's own parameters, tied weights once
  int64_t trained_count() const;  // trained ones
};
// Throws UsageError: a target that is no linear layer, a pattern that matches nothing or parts of
// one matrix, or nothing left to train.
ParameterLayout parameter_layout(const ModelConfig& config, const Training& training = {});

// A linear layer of the blocks, as a target of LoRA.
struct LinearModule {
  std::string name;  // "model.layers.0.self_attn.q_proj"
  int64_t in = 0, out = 0;
  int64_t column = 0;  // where its outputs begin among those of its group
};
// The modules of layer l, by the matrix they serve as: q k v, attention's output, up (gate up),
// down.
std::vector<std::vector<LinearModule>> linear_modules(const ModelConfig& config, int64_t layer);

// Columns of the low-rank activations (rank × targets) of each of those matrices, by layer.
struct LowRanks {
  int64_t qkv = 0, proj = 0, up = 0, down = 0;
};
std::vector<LowRanks> low_ranks(const ModelConfig& config, const Training& training);

// PEFT's names of a module's matrices: "base_model.model.<module>.lora_A.weight".
std::string lora_a_name(const std::string& module);
std::string lora_b_name(const std::string& module);

}  // namespace train_sft
