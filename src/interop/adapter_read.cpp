#include <fmt/ranges.h>

#include <algorithm>
#include <cmath>

#include "interop/map_file.h"
#include "train_sft/base/error.h"
#include "train_sft/base/file.h"
#include "train_sft/interop/adapter.h"

namespace train_sft {
namespace {

constexpr std::string_view kPrefix = "base_model.model.";
constexpr std::string_view kA = ".lora_A.weight", kB = ".lora_B.weight";

bool is_set(const Json& config, const char* field) {
  const auto found = config.find(field);
  if (found == config.end() || found->is_null()) return false;
  if (found->is_boolean()) return found->get<bool>();
  return !((found->is_array() || found->is_object()) && found->empty());
}

// Throws CheckpointError unless the field is absent or this text.
void require_text(const Json& config, const char* field, const char* wanted,
                  const std::string& path) {
  const auto found = config.find(field);
  if (found != config.end() && *found != wanted)
    throw CheckpointError("{}: field '{}' is {}; only '{}' is implemented", path, field,
                          found->dump(), wanted);
}

// Fields of PEFT's LoraConfig that add something to scale · B·A, or make tensors of other names.
void refuse_other_arithmetic(const Json& config, const std::string& path) {
  require_text(config, "peft_type", "LORA", path);
  require_text(config, "bias", "none", path);
  for (const char* field :
       {"use_dora", "lora_bias", "modules_to_save", "rank_pattern", "alpha_pattern", "use_qalora",
        "alora_invocation_tokens", "trainable_token_indices", "layer_replication",
        "target_parameters", "arrow_config", "corda_config"})
    if (is_set(config, field))
      throw CheckpointError("{}: field '{}' is {}, which is not implemented", path, field,
                            config[field].dump());
}

double scale_of(const Json& config, const std::string& path) {
  const auto number = [&](const char* field) {
    const auto found = config.find(field);
    if (found == config.end() || !found->is_number() || !(found->get<double>() > 0))
      throw CheckpointError("{}: field '{}' is no positive number", path, field);
    return found->get<double>();
  };
  const double alpha = number("lora_alpha"), rank = number("r");
  return alpha / (is_set(config, "use_rslora") ? std::sqrt(rank) : rank);
}

SourceTensor source_of(const SafetensorsEntry& entry, const std::string& path) {
  const auto type = tensor_type_named(entry.dtype);
  if (!type || info(*type).block != 1 || entry.shape.size() != 2)
    throw CheckpointError("{}: tensor '{}' is no matrix of F64, F32, F16 or BF16", path,
                          entry.name);
  return {entry.name, *type, entry.shape, entry.bytes};
}

void check_pairs(const Adapter& adapter, const std::string& path) {
  for (const auto& [module, pair] : adapter.modules) {
    if (pair.a.shape.empty() || pair.b.shape.empty())
      throw CheckpointError("{}: '{}' has only one of lora_A and lora_B", path, module);
    if (pair.a.shape[0] != pair.b.shape[1] || pair.a.shape[0] == 0)
      throw CheckpointError("{}: lora_A of '{}' is [{}], lora_B [{}]: their ranks differ", path,
                            module, fmt::join(pair.a.shape, ", "), fmt::join(pair.b.shape, ", "));
  }
  if (adapter.modules.empty()) throw CheckpointError("{}: holds no tensors", path);
}

std::string base_of(const Json& config, const std::string& path) {
  const auto base = config.find("base_model_name_or_path");
  if (base == config.end() || !base->is_string() || base->get<std::string>().empty())
    throw CheckpointError("{}: field 'base_model_name_or_path' names no model", path);
  const std::string name = base->get<std::string>();
  if (!path_exists(name))
    throw CheckpointError(
        "{}: its base model {} is not there; put it there, or change base_model_name_or_path to "
        "where it is",
        path, name);
  if (is_directory(name) && holds_adapter(name))
    throw CheckpointError("{}: its base {} is an adapter itself; export that with --merge first",
                          path, name);
  return name;
}

}  // namespace

bool holds_adapter(const std::string& directory) {
  return path_exists(join_path(directory, kAdapterConfig));
}

std::string adapter_base(const std::string& directory) {
  const std::string path = join_path(directory, kAdapterConfig);
  return base_of(read_model_json(path), path);
}

Adapter read_adapter(const std::string& directory) {
  const std::string config_path = join_path(directory, kAdapterConfig);
  const Json config = read_model_json(config_path);
  refuse_other_arithmetic(config, config_path);
  const double scale = scale_of(config, config_path);
  Adapter adapter;
  adapter.directory = directory;
  adapter.base = base_of(config, config_path);
  const std::string path = join_path(directory, kAdapterWeights);
  if (!path_exists(path))
    throw CheckpointError("{}: is missing; adapters are read from safetensors", path);
  adapter.file = std::make_shared<const SafetensorsFile>(path);
  for (const SafetensorsEntry& entry : adapter.file->entries()) {
    std::string_view name = entry.name;
    const bool is_a = name.ends_with(kA), is_b = name.ends_with(kB);
    if (!name.starts_with(kPrefix) || (!is_a && !is_b))
      throw CheckpointError("{}: tensor '{}' is no part of a LoRA adapter of a language model",
                            path, entry.name);
    name.remove_prefix(kPrefix.size());
    name.remove_suffix(kA.size());
    Adapter::Pair& pair = adapter.modules[std::string(name)];
    pair.scale = scale;
    (is_a ? pair.a : pair.b) = source_of(entry, path);
  }
  check_pairs(adapter, path);
  return adapter;
}

void attach_adapter(ModelSource& model, const Adapter& adapter) {
  const auto layout = parameter_layout(model.config);
  for (const auto& [module, pair] : adapter.modules) {
    const std::string name = module + ".weight";
    const ParameterInfo* parameter = nullptr;
    for (const ParameterInfo& info : layout.parameters)
      if (info.name == name && info.shape.size() == 2 && info.layer >= 0) parameter = &info;
    if (parameter == nullptr)
      throw CheckpointError("{}: adapts '{}', which is no linear layer of {}", adapter.directory,
                            module, model.path);
    LowRankUpdate update{pair.a, pair.b, pair.scale, model.config.family == Family::gpt2};
    std::vector<int64_t> shape{pair.b.shape[0], pair.a.shape[1]};
    if (update.transposed) std::swap(shape[0], shape[1]);
    if (shape != parameter->shape)
      throw CheckpointError("{}: '{}' is made for a weight of [{}], that of {} is [{}]",
                            adapter.directory, module, fmt::join(shape, ", "), model.path,
                            fmt::join(parameter->shape, ", "));
    model.parameters.at(name).update = std::move(update);
  }
  model.files.push_back(adapter.file);
}

Json peft_config(const ModelConfig& config, const Training& training, const std::string& base) {
  std::vector<std::string> targets = training.lora_targets;
  if (targets.empty())
    for (const auto& modules : linear_modules(config, 0))
      for (const LinearModule& module : modules) {
        std::string end = module.name.substr(module.name.rfind('.') + 1);
        if (std::find(targets.begin(), targets.end(), end) == targets.end())
          targets.push_back(std::move(end));
      }
  return {{"peft_type", "LORA"},
          {"task_type", "CAUSAL_LM"},
          {"base_model_name_or_path", base},
          {"r", training.lora_rank},
          {"lora_alpha", training.lora_alpha},
          {"lora_dropout", 0.0},
          {"bias", "none"},
          {"fan_in_fan_out", config.family == Family::gpt2},
          {"use_rslora", false},
          {"use_dora", false},
          {"init_lora_weights", true},
          {"inference_mode", true},
          {"modules_to_save", Json()},
          {"target_modules", targets}};
}

}  // namespace train_sft
