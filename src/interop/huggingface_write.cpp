#include <set>

#include "interop/parameter_bytes.h"
#include "train_sft/base/error.h"
#include "train_sft/base/file.h"
#include "train_sft/config/parameter_layout.h"
#include "train_sft/interop/model_export.h"
#include "train_sft/interop/safetensors.h"

namespace train_sft {
namespace {

// What transformers and sentencepiece read a tokenizer from.
constexpr const char* kTokenizerFiles[] = {
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "chat_template.jinja",
};

void write_synced(const std::string& path, const std::string& text) {
  FileWriter file(path, FileWriter::Mode::truncate);
  file.write(text);
  file.sync();
  file.close();
}

const char* torch_dtype(TensorType type) {
  if (type == TensorType::f16) return "float16";
  return type == TensorType::bf16 ? "bfloat16" : "float32";
}

Json generation_of(const ModelSource& model) {
  Json generation = model.generation;
  if (generation.empty())
    for (const auto& [field, id] : model.special_ids.items())
      if (!id.is_null()) generation[field] = id;
  return generation;
}

void write_weights(const ModelSource& model, const std::string& path, TensorType type) {
  const auto layout = parameter_layout(model.config);
  std::vector<SafetensorsEntry> entries;
  for (const auto& parameter : layout.parameters)
    entries.push_back({parameter.name, info(type).name, parameter.shape, {}});
  SafetensorsWriter writer(path, entries, {{"format", "pt"}});
  for (const auto& parameter : layout.parameters) {
    const ParameterSource& source = model.parameters.at(parameter.name);
    if (source.is_plain() && source.tensor.type == type) {
      writer.write(source.tensor.bytes);
      continue;
    }
    writer.write(bytes_of(model, parameter.name, parameter_values(model, parameter), type));
  }
  writer.finish();
}

void copy_file(const std::string& from, const std::string& to) {
  try {
    write_synced(to, read_file(from));
  } catch (const DataError& error) {
    throw CheckpointError("{}", error.what());
  }
}

}  // namespace

TensorType stored_type(const ModelSource& model, const std::string& dtype) {
  if (dtype == "f32") return TensorType::f32;
  if (dtype == "f16") return TensorType::f16;
  if (dtype == "bf16") return TensorType::bf16;
  if (dtype == "q8_0") return TensorType::q8_0;
  std::set<TensorType> types;
  for (const auto& [name, source] : model.parameters)
    if (source.rearrange != Rearrange::zeros) types.insert(source.tensor.type);
  const bool alike = types.size() == 1;
  if (alike && (types.contains(TensorType::f16) || types.contains(TensorType::bf16)))
    return *types.begin();
  return TensorType::f32;
}

void write_huggingface(const ModelSource& model, const std::string& directory, TensorType type) {
  TRAIN_SFT_CHECK(info(type).block == 1 && type != TensorType::f64, "{}", info(type).name);
  Json config = to_huggingface(model.config, -1, -1, -1);
  for (const auto& [field, id] : model.special_ids.items()) config[field] = id;
  config["torch_dtype"] = torch_dtype(type);
  write_synced(join_path(directory, "config.json"), dump_json(config));
  write_synced(join_path(directory, "generation_config.json"), dump_json(generation_of(model)));
  write_weights(model, join_path(directory, "model.safetensors"), type);
  if (model.tokenizer_directory.empty()) {
    if (model.tokenizer) model.tokenizer->save(directory, model.chat_template);
    return;
  }
  for (const char* name : kTokenizerFiles) {
    const std::string from = join_path(model.tokenizer_directory, name);
    if (path_exists(from)) copy_file(from, join_path(directory, name));
  }
}

}  // namespace train_sft
