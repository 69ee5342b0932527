// A model written in the formats of other tools.
#pragma once

#include <optional>
#include <string>

#include "train_sft/interop/model_source.h"

namespace train_sft {

// What parameters are stored in: the type that `dtype` names (f32, f16, bf16, q8_0); for "auto" the
// file's own when all are alike and can be written (F32, F16, BF16), else F32.
TensorType stored_type(const ModelSource& model, const std::string& dtype);

// Writes config.json, generation_config.json and model.safetensors (of `type`: F32, F16 or BF16)
// into a directory that exists, and copies the tokenizer's files where the model has them. Files
// are synced. Throws CheckpointError when a finite weight does not fit the type.
void write_huggingface(const ModelSource& model, const std::string& directory, TensorType type);

// Writes a GGUF version 3 file that llama.cpp loads, with tokenizer and chat template when the
// model has a tokenizer directory. type: F32, F16, BF16 or Q8_0, of the matrices; norms, biases and
// learned positions are F32 always, rows that are no whole Q8_0 blocks F16, as llama.cpp's own
// converter has it. Returns what llama.cpp will do differently, "" when nothing. Throws
// CheckpointError when GGUF cannot express the model.
std::string write_gguf(const ModelSource& model, const std::string& path, TensorType type);

// Writes a .pt file in nanoGPT's naming, {'model': ..., 'model_args': ...}, of F32, F16 or BF16
// tensors; torch.load(weights_only=True) reads it. GPT-2 models with a tied head, 4 n_embd wide
// feed-forward and eps 1e-5 only: another is a CheckpointError. Neither tokenizer nor chat template
// has a place in it.
void write_torch(const ModelSource& model, const std::string& path, TensorType type);

}  // namespace train_sft
