// What the readers of the formats share: matching a file's tensors with a model's parameters.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "train_sft/interop/model_source.h"

namespace train_sft {

// Where a parameter is expected.
struct Expected {
  std::string tensor;  // the file's name for it
  Rearrange rearrange = Rearrange::none;
  int64_t heads = 0;
  bool optional = false;  // absent: zeros
};

// Fills model.parameters by model.config. Throws CheckpointError naming the first parameter that
// is missing or of another shape, or the first tensor that no parameter takes.
void match_parameters(ModelSource& model, const std::vector<SourceTensor>& tensors,
                      const std::function<Expected(const std::string& parameter)>& expected);

// GPT-2's matrices outside the embeddings, which OpenAI's Conv1D stores [in, out] and other formats
// as Linear's [out, in]. By the parameter's name; only for this family.
bool is_conv1d_weight(const std::string& parameter);

// validate(), as a CheckpointError that names the file.
void check_config(const ModelSource& model);

// The readers, each in its file.
ModelSource open_huggingface(const std::string& directory);
ModelSource open_gguf(const std::string& path, const OpenOptions& options);
ModelSource open_torch(const std::string& path, const OpenOptions& options);
ModelSource open_llmc(const std::string& path);

}  // namespace train_sft
