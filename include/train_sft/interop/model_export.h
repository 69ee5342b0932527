// A model written in the formats of other tools.
#pragma once

#include <optional>
#include <string>

#include "train_sft/interop/model_source.h"

namespace train_sft {

// What every parameter is stored in when the file's own formats are kept: theirs when all are alike
// and can be written (F32, F16, BF16), else F32.
TensorType natural_type(const ModelSource& model);

// Writes config.json, generation_config.json and model.safetensors (of `type`: F32, F16 or BF16)
// into a directory that exists, and copies the tokenizer's files where the model has them. Files
// are synced. Throws CheckpointError when a finite weight does not fit the type.
void write_huggingface(const ModelSource& model, const std::string& directory, TensorType type);

}  // namespace train_sft
