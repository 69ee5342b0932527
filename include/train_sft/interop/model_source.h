// A model in somebody else's file, seen as ours: its configuration, and where each parameter of
// config/parameter_layout.h lies in the file. Nothing is copied before it is asked for.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "train_sft/base/json.h"
#include "train_sft/config/model_config.h"
#include "train_sft/interop/tensor_types.h"
#include "train_sft/text/tokenizer.h"

namespace train_sft {

// A tensor as the file has it.
struct SourceTensor {
  std::string name;
  TensorType type = TensorType::f32;
  std::vector<int64_t> shape;  // slowest first
  std::span<const std::byte> bytes;
};

enum class Rearrange {
  none,
  transpose,         // a matrix stored [out, in] where the parameter is [in, out]
  unpermute_rotary,  // llama.cpp's order of q and k rows: channel pairs stand side by side
  zeros,             // not in the file: an absent bias
};

// A LoRA adapter's share: + scale · B·A, which is [out, in].
struct LowRankUpdate {
  SourceTensor a, b;
  double scale = 0;
  bool transposed = false;  // the parameter is [in, out]
};

struct ParameterSource {
  SourceTensor tensor;
  Rearrange rearrange = Rearrange::none;
  int64_t heads = 0;  // of unpermute_rotary
  std::optional<LowRankUpdate> update;

  // Its values are the bytes in the file as they are.
  bool is_plain() const { return rearrange == Rearrange::none && !update; }
};

struct ModelSource {
  std::string path;
  std::string format;  // "Hugging Face", "GGUF", ...
  ModelConfig config;
  std::map<std::string, ParameterSource> parameters;  // by the parameter's name
  std::vector<std::shared_ptr<const void>> files;     // keep the spans valid

  // What goes into config.json and generation_config.json beside the shape: bos_token_id, ...
  Json special_ids = Json::object();
  Json generation = Json::object();
  std::string tokenizer_directory;  // whose tokenizer files belong to the model; "": none
  std::shared_ptr<const Tokenizer> tokenizer;  // of a file that holds its own; else null
  std::string chat_template;                   // Jinja, beside `tokenizer`
  std::vector<std::string> notes;              // what a user should know about this model
};

struct OpenOptions {
  int64_t n_head = 0;     // of files that do not say: a bare .pt state dict
  std::string tokenizer;  // a directory whose tokenizer files stand in for the model's own
};

// A Hugging Face directory, a PEFT adapter's directory (merged into its base), a GGUF file, a .pt,
// a .bin: recognised by what the path holds. Every parameter is there with the right shape and
// nothing else is, else CheckpointError names the first that is not. A setting that changes the
// arithmetic and is not implemented is a CheckpointError naming field and value.
ModelSource open_model(const std::string& path, const OpenOptions& options = {});

// The parameter's values, in the parameter's layout.
void read_parameter(const ModelSource& model, const std::string& name, std::span<float> out);

}  // namespace train_sft
