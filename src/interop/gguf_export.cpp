#include "interop/gguf_names.h"
#include "interop/gguf_tokenizer.h"
#include "interop/parameter_bytes.h"
#include "interop/rearrange.h"
#include "train_sft/base/error.h"
#include "train_sft/base/file.h"
#include "train_sft/interop/gguf.h"
#include "train_sft/interop/model_export.h"
#include "train_sft/text/tokenizer.h"

namespace train_sft {
namespace {

// general.file_type: what most of the file is (llama_ftype of llama.h).
uint32_t file_type(TensorType type) {
  switch (type) {
    case TensorType::f16:
      return 1;
    case TensorType::q8_0:
      return 7;
    case TensorType::bf16:
      return 32;
    default:
      return 0;
  }
}

void add_shape(GgufWriter& writer, const ModelConfig& config) {
  const std::string prefix = gguf_architecture(config) + ".";
  const auto size = [&](const char* key, int64_t value) {
    writer.add(prefix + key, static_cast<uint32_t>(value));
  };
  size("block_count", config.n_layer);
  size("context_length", config.block_size);
  size("embedding_length", config.n_embd);
  size("feed_forward_length", config.ffn());
  size("attention.head_count", config.n_head);
  size("vocab_size", config.vocab_size);
  const auto eps = static_cast<float>(config.norm_eps);
  if (config.family == Family::gpt2) {
    writer.add(prefix + "attention.layer_norm_epsilon", eps);
    return;
  }
  size("attention.head_count_kv", config.kv_heads());
  size("rope.dimension_count", config.head_dim());
  size("attention.key_length", config.head_dim());
  size("attention.value_length", config.head_dim());
  writer.add(prefix + "attention.layer_norm_rms_epsilon", eps);
  writer.add(prefix + "rope.freq_base", static_cast<float>(config.rope_theta));
}

TensorType type_of(const ParameterInfo& parameter, const std::vector<int64_t>& shape,
                   TensorType wanted) {
  if (shape.size() < 2 || parameter.name == "transformer.wpe.weight") return TensorType::f32;
  if (shape.back() % info(wanted).block != 0) return TensorType::f16;
  return wanted;
}

std::vector<float> values_for_gguf(const ModelSource& model, const ParameterInfo& parameter) {
  std::vector<float> values = parameter_values(model, parameter);
  switch (gguf_order(model.config, parameter.name)) {
    case GgufOrder::same:
      return values;
    case GgufOrder::transposed:
      return transposed(values, parameter.shape[0], parameter.shape[1]);
    case GgufOrder::permuted_q:
      return permuted_rotary(values, model.config.n_head, parameter.shape[0]);
    case GgufOrder::permuted_k:
      return permuted_rotary(values, model.config.kv_heads(), parameter.shape[0]);
  }
  return values;
}

}  // namespace

std::string write_gguf(const ModelSource& model, const std::string& path, TensorType type) {
  const ModelConfig& config = model.config;
  GgufWriter writer;
  writer.add("general.architecture", gguf_architecture(config));
  writer.add("general.type", std::string("model"));
  writer.add("general.name", base_name(model.path));
  writer.add("general.file_type", file_type(type));
  writer.add("general.quantization_version", uint32_t{2});
  add_shape(writer, config);
  std::string difference;
  if (!model.tokenizer_directory.empty() && holds_tokenizer(model.tokenizer_directory))
    difference = add_tokenizer(writer, model.tokenizer_directory, config.vocab_size);
  else
    writer.add("tokenizer.ggml.model", std::string("none"));

  const ParameterLayout layout = parameter_layout(config);
  std::vector<TensorType> types;
  for (const ParameterInfo& parameter : layout.parameters) {
    std::vector<int64_t> shape = parameter.shape;
    if (gguf_order(config, parameter.name) == GgufOrder::transposed) std::swap(shape[0], shape[1]);
    types.push_back(type_of(parameter, shape, type));
    writer.add_tensor(gguf_name(parameter.name), shape, types.back());
  }
  std::vector<std::byte> bytes;
  writer.write(path, [&](size_t i) -> std::span<const std::byte> {
    const ParameterInfo& parameter = layout.parameters[i];
    bytes = bytes_of(model, parameter.name, values_for_gguf(model, parameter), types[i]);
    return bytes;
  });
  return difference;
}

}  // namespace train_sft
