// A Hugging Face model directory: config.json and safetensors, in one file or in shards that
// model.safetensors.index.json lists.
#include <set>

#include "interop/map_file.h"
#include "interop/source_parts.h"
#include "train_sft/base/error.h"
#include "train_sft/base/file.h"
#include "train_sft/interop/safetensors.h"

namespace train_sft {
namespace {

constexpr const char* kSingle = "model.safetensors";
constexpr const char* kIndex = "model.safetensors.index.json";

// A shard is a file beside the index: anything else could lead anywhere.
void check_shard_name(const std::string& name, const std::string& index) {
  if (name.empty() || name == "." || name == ".." || name.find('/') != name.npos ||
      name.find('\0') != name.npos)
    throw CheckpointError("{}: weight_map names the file '{}'; expected a name without a path",
                          index, name);
}

// Which file holds each tensor; empty: all are in model.safetensors.
std::map<std::string, std::string> read_index(const std::string& directory) {
  const std::string path = join_path(directory, kIndex);
  const Json json = read_model_json(path);
  const auto map = json.find("weight_map");
  if (map == json.end() || !map->is_object())
    throw CheckpointError("{}: no object 'weight_map'", path);
  std::map<std::string, std::string> files;
  for (const auto& [tensor, file] : map->items()) {
    if (!file.is_string())
      throw CheckpointError("{}: weight_map of '{}' is not a file name", path, tensor);
    check_shard_name(file.get<std::string>(), path);
    files[tensor] = file.get<std::string>();
  }
  return files;
}

using Shards = std::vector<std::shared_ptr<const SafetensorsFile>>;

// Causal masks and rotary tables that older versions of transformers saved with the weights.
bool is_buffer(const std::string& name) {
  return name.ends_with(".attn.bias") || name.ends_with(".attn.masked_bias") ||
         name.ends_with(".rotary_emb.inv_freq");
}

// Models saved without the head on top lack the prefix that the language-model class adds.
std::string full_name(const std::string& name, Family family) {
  const std::string prefix = family == Family::gpt2 ? "transformer." : "model.";
  return name.starts_with(prefix) || name.starts_with("lm_head.") ? name : prefix + name;
}

SourceTensor source_of(const SafetensorsEntry& entry, Family family, const std::string& path) {
  const auto type = tensor_type_named(entry.dtype);
  if (!type || info(*type).block != 1)
    throw CheckpointError("{}: tensor '{}' has dtype {}; F64, F32, F16 and BF16 are read", path,
                          entry.name, entry.dtype);
  return {full_name(entry.name, family), *type, entry.shape, entry.bytes};
}

std::vector<SourceTensor> single_file(const std::string& directory, ModelSource& model) {
  const std::string path = join_path(directory, kSingle);
  const auto file = std::make_shared<const SafetensorsFile>(path);
  model.files.push_back(file);
  std::vector<SourceTensor> tensors;
  for (const SafetensorsEntry& entry : file->entries())
    if (!is_buffer(entry.name)) tensors.push_back(source_of(entry, model.config.family, path));
  return tensors;
}

std::vector<SourceTensor> sharded(const std::string& directory, ModelSource& model) {
  const auto index = read_index(directory);
  std::map<std::string, std::shared_ptr<const SafetensorsFile>> shards;
  std::vector<SourceTensor> tensors;
  for (const auto& [name, file] : index) {
    const std::string path = join_path(directory, file);
    auto& shard = shards[file];
    if (!shard) {
      shard = std::make_shared<const SafetensorsFile>(path);
      model.files.push_back(shard);
    }
    const SafetensorsEntry* entry = shard->find(name);
    if (entry == nullptr)
      throw CheckpointError("{}: tensor '{}' is missing, which {} says it holds", path, name,
                            kIndex);
    if (!is_buffer(name)) tensors.push_back(source_of(*entry, model.config.family, path));
  }
  for (const auto& [file, shard] : shards)
    for (const SafetensorsEntry& entry : shard->entries())
      if (!index.contains(entry.name))
        throw CheckpointError("{}: tensor '{}' is not in {}", join_path(directory, file),
                              entry.name, kIndex);
  return tensors;
}

// A head saved beside a tied embedding must be its copy: transformers would ignore it.
void drop_copy_of_tied_head(std::vector<SourceTensor>& tensors, const ModelSource& model) {
  if (!model.config.tie_embeddings) return;
  const std::string embedding =
      model.config.family == Family::gpt2 ? "transformer.wte.weight" : "model.embed_tokens.weight";
  const SourceTensor *head = nullptr, *table = nullptr;
  for (const SourceTensor& tensor : tensors) {
    if (tensor.name == "lm_head.weight") head = &tensor;
    if (tensor.name == embedding) table = &tensor;
  }
  if (head == nullptr || table == nullptr) return;
  if (head->type != table->type ||
      !std::equal(head->bytes.begin(), head->bytes.end(), table->bytes.begin(), table->bytes.end()))
    throw CheckpointError(
        "{}: config.json says tie_word_embeddings, but 'lm_head.weight' is not a copy of '{}'; set "
        "tie_word_embeddings to what the model was trained with",
        model.path, embedding);
  tensors.erase(tensors.begin() + (head - tensors.data()));
}

void take_ids(const Json& from, Json& to) {
  for (const char* field : {"bos_token_id", "eos_token_id", "pad_token_id"})
    if (const auto found = from.find(field); found != from.end()) to[field] = *found;
}

}  // namespace

ModelSource open_huggingface(const std::string& directory) {
  ModelSource model;
  model.path = directory;
  model.format = "Hugging Face";
  const std::string config_path = join_path(directory, "config.json");
  if (!path_exists(config_path))
    throw CheckpointError("{}: holds no config.json; a Hugging Face model directory has one",
                          directory);
  const Json config = read_model_json(config_path);
  model.config = from_huggingface(config, config_path);
  const bool single = path_exists(join_path(directory, kSingle));
  if (!single && !path_exists(join_path(directory, kIndex)))
    throw CheckpointError("{}: holds neither {} nor {}", directory, kSingle, kIndex);
  std::vector<SourceTensor> tensors =
      single ? single_file(directory, model) : sharded(directory, model);
  drop_copy_of_tied_head(tensors, model);
  match_parameters(model, tensors, [](const std::string& name) { return Expected{name}; });
  take_ids(config, model.special_ids);
  const std::string generation = join_path(directory, "generation_config.json");
  if (path_exists(generation)) model.generation = read_model_json(generation);
  model.tokenizer_directory = directory;
  return model;
}

}  // namespace train_sft
