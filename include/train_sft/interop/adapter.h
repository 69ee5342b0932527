// LoRA adapters in PEFT's format (huggingface/peft, docs/source/developer_guides/checkpoint.md): a
// directory with adapter_config.json and adapter_model.safetensors, whose tensors are
// base_model.model.<module>.lora_A.weight [rank, in] and .lora_B.weight [out, rank].
#pragma once

#include <map>
#include <memory>
#include <string>

#include "train_sft/config/parameter_layout.h"
#include "train_sft/interop/model_source.h"
#include "train_sft/interop/safetensors.h"

namespace train_sft {

inline constexpr const char* kAdapterConfig = "adapter_config.json";
inline constexpr const char* kAdapterWeights = "adapter_model.safetensors";

struct Adapter {
  struct Pair {
    SourceTensor a, b;
    double scale = 0;  // alpha / rank
  };
  std::string directory;
  std::string base;                     // the model it adapts: a path
  std::map<std::string, Pair> modules;  // by name: "model.layers.0.self_attn.q_proj"
  std::shared_ptr<const SafetensorsFile> file;
};

bool holds_adapter(const std::string& directory);
// Throws CheckpointError: a kind of adapter or a setting that changes the arithmetic and is not
// implemented (DoRA, biases, modules trained whole), or tensors that are not pairs.
Adapter read_adapter(const std::string& directory);
// The adapter's base alone, without its tensors. Throws CheckpointError when it is not there or is
// an adapter itself.
std::string adapter_base(const std::string& directory);

// adapter_config.json of what is trained; base: a path or a name.
Json peft_config(const ModelConfig& config, const Training& training, const std::string& base);

// Makes W + scale · B·A of the weights that the adapter changes. Throws CheckpointError naming a
// module that the model lacks or whose shape does not fit.
void attach_adapter(ModelSource& model, const Adapter& adapter);

}  // namespace train_sft
