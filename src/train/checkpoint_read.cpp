#include <ATen/ops/empty.h>

#include <array>

#include "train/adapter_checkpoint.h"
#include "train/checkpoint_files.h"
#include "train/tensor_bytes.h"
#include "train_sft/base/checksum.h"
#include "train_sft/base/error.h"
#include "train_sft/base/file.h"
#include "train_sft/base/log.h"
#include "train_sft/interop/adapter.h"
#include "train_sft/train/checkpoint.h"

namespace train_sft {
namespace files = checkpoint_files;
namespace {

bool is_model_directory(const std::string& path) {
  return holds_adapter(path) || (path_exists(join_path(path, files::kModelConfig)) &&
                                 path_exists(join_path(path, files::kModel)));
}

// Links are followed by hand, so that messages and saved settings name the step.
std::string follow_link(const std::string& path) {
  const std::string target = read_link(path);
  if (target.empty()) return path;
  const std::string followed = join_path(parent_path(path), target);
  if (!path_exists(followed))
    throw CheckpointError("{}: is a link to {}, which is not there; name a checkpoint directory",
                          path, followed);
  return followed;
}

// Compares field by field so that the message can name the first difference.
void check_same_model(const ModelConfig& stored, const ModelConfig& wanted,
                      const std::string& directory) {
  const auto check = [&](const char* name, const auto& a, const auto& b) {
    if (a != b)
      throw CheckpointError(
          "{}: {} is {} in the checkpoint and {} in the settings; leave {} to the "
          "checkpoint, or train a new model",
          directory, name, a, b, name);
  };
  const auto family = [](const ModelConfig& config) {
    return std::string(config.family == Family::gpt2 ? "gpt2" : "llama");
  };
  check("family", family(stored), family(wanted));
  check("n_layer", stored.n_layer, wanted.n_layer);
  check("n_head", stored.n_head, wanted.n_head);
  check("n_kv_head", stored.kv_heads(), wanted.kv_heads());
  check("n_embd", stored.n_embd, wanted.n_embd);
  check("head_size", stored.head_dim(), wanted.head_dim());
  check("ffn_hidden", stored.ffn(), wanted.ffn());
  check("vocab_size", stored.vocab_size, wanted.vocab_size);
  if (stored.family == Family::gpt2) check("block_size", stored.block_size, wanted.block_size);
  check("tie_embeddings", stored.tie_embeddings, wanted.tie_embeddings);
  check("qkv_bias", stored.qkv_bias, wanted.qkv_bias);
  check("qk_norm", stored.qk_norm, wanted.qk_norm);
  check("norm_eps", stored.norm_eps, wanted.norm_eps);
  if (stored.family == Family::llama) check("rope_theta", stored.rope_theta, wanted.rope_theta);
}

// GPT-2 models on the Hub omit the prefix that transformers' language-model class adds.
const SafetensorsEntry* find_tensor(const SafetensorsFile& file, const std::string& name) {
  static constexpr std::string_view kPrefix = "transformer.";
  const SafetensorsEntry* entry = file.find(name);
  if (entry == nullptr && name.starts_with(kPrefix)) entry = file.find(name.substr(kPrefix.size()));
  return entry;
}

void load_tensor(const SafetensorsFile& file, const std::string& path, const std::string& name,
                 const at::Tensor& target) {
  const SafetensorsEntry* entry = find_tensor(file, name);
  if (entry == nullptr) throw CheckpointError("{}: tensor '{}' is missing", path, name);
  copy_entry(*entry, target, path);
}

// The model's own parameters.
void load_model(const std::string& directory, Parameters& parameters) {
  const std::string path = join_path(directory, files::kModel);
  const SafetensorsFile file(path);
  for (const auto& parameter : parameters.layout().parameters)
    if (!parameter.adapter) load_tensor(file, path, parameter.name, parameters.stored(parameter));
}

// The optimizer's state: one file, or a part of each rank that saved it. This process may want all
// of it or a part of its own, cut elsewhere.
class OptimizerFiles {
 public:
  explicit OptimizerFiles(const std::string& directory) {
    for (const auto& name : list_directory(directory))
      if (files::is_optimizer_file(name)) {
        paths_.push_back(join_path(directory, name));
        files_.push_back(std::make_unique<SafetensorsFile>(paths_.back()));
      }
  }

  // False when no file has it.
  bool load(const std::string& name, const at::Tensor& target) const {
    for (size_t i = 0; i < files_.size(); ++i)
      if (const SafetensorsEntry* entry = files_[i]->find(name)) {
        copy_entry(*entry, target, paths_[i]);
        return true;
      }
    return false;
  }

  void load_moments(const ParameterLayout& layout, const Optimizer& optimizer) const {
    for (const auto& parameter : layout.parameters) {
      if (!optimizer.updates(parameter)) continue;
      require(files::kExpAvgPrefix + parameter.name, optimizer.first_moment(parameter));
      if (optimizer.has_second_moment(parameter))
        require(files::kExpAvgSqPrefix + parameter.name, optimizer.second_moment(parameter));
    }
  }

 private:
  void require(const std::string& name, const at::Tensor& target) const {
    if (!load(name, target))
      throw CheckpointError("{}: tensor '{}' is missing", paths_.front(), name);
  }

  std::vector<std::string> paths_;
  std::vector<std::unique_ptr<SafetensorsFile>> files_;
};

}  // namespace

std::string verify_checkpoint(const std::string& directory) {
  try {
    const files::Manifest manifest = files::read_manifest(directory);
    const bool adapter = manifest.has(kAdapterConfig);
    for (const char* required : {adapter ? kAdapterWeights : files::kModel,
                                 adapter ? kAdapterConfig : files::kModelConfig})
      if (!manifest.has(required))
        return fmt::format("{}: the manifest does not list {}", directory, required);
    // An imported model has no run to go on with.
    if (manifest.has(files::kOptimizer) && !manifest.has(files::kTrainState))
      return fmt::format("{}: the manifest does not list {}", directory, files::kTrainState);
    for (const auto& [name, record] : manifest.files) {
      const std::string path = join_path(directory, name);
      if (!path_exists(path)) return fmt::format("{}: is missing", path);
      const uint64_t bytes = file_size(path);
      if (bytes != record.bytes)
        return fmt::format("{}: has {} bytes, the manifest says {}", path, bytes, record.bytes);
      const std::string checksum = checksum_of_file(path);
      if (checksum != record.checksum)
        return fmt::format(
            "{}: its bytes changed after it was written (checksum {}, the manifest "
            "says {})",
            path, checksum, record.checksum);
    }
    // The manifest vouches for the others; its own step is held against theirs.
    // (An imported model has no step.)
    if (manifest.has(files::kTrainState)) {
      const int64_t step = read_train_state(directory).step;
      if (manifest.step != step)
        return fmt::format("{}: the manifest says step {}, {} says {}", directory, manifest.step,
                           files::kTrainState, step);
    }
    return "";
  } catch (const Error& error) {
    return error.what();
  }
}

void require_valid_checkpoint(const std::string& directory) {
  if (!path_exists(join_path(directory, files::kManifest))) return;  // a model from elsewhere
  const std::string fault = verify_checkpoint(directory);
  if (!fault.empty())
    throw CheckpointError(
        "{}; go on from another checkpoint (--resume auto takes the newest valid "
        "one)",
        fault);
}

std::string newest_valid_checkpoint(const std::string& out_dir) {
  const auto found = files::list_checkpoints(out_dir);
  for (auto candidate = found.rbegin(); candidate != found.rend(); ++candidate) {
    const std::string directory = join_path(out_dir, candidate->name);
    const std::string fault = verify_checkpoint(directory);
    if (!fault.empty()) {
      log::warning("checkpoint not valid, trying the one before: {}", fault);
    } else if (!files::read_manifest(directory).has(files::kOptimizer)) {
      log::warning(
          "{}: holds weights only (older ones are thinned by keep_optimizer), trying the "
          "one before",
          directory);
    } else {
      return directory;
    }
  }
  return "";
}

std::string resolve_checkpoint(const std::string& path) {
  if (!path_exists(path) && read_link(path).empty()) {
    const std::string parent = parent_path(path);
    std::string known;
    for (const auto& found : files::list_checkpoints(parent.empty() ? "." : parent))
      known += (known.empty() ? "; there are " : ", ") + found.name;
    throw CheckpointError("{}: there is no such checkpoint{}", path, known);
  }
  const std::string directory = follow_link(path);
  if (!is_directory(directory))
    throw CheckpointError("{}: is a file; a checkpoint is a directory that holds {} and {}",
                          directory, files::kModelConfig, files::kModel);
  if (is_model_directory(directory) || path_exists(join_path(directory, files::kManifest)))
    return directory;
  const std::string latest = join_path(directory, files::kLatest);
  if (!read_link(latest).empty()) return follow_link(latest);
  throw CheckpointError("{}: holds neither a model ({} and {}) nor a run's link '{}'", directory,
                        files::kModelConfig, files::kModel, files::kLatest);
}

ModelConfig read_model_config(const std::string& directory) {
  if (holds_adapter(directory)) return read_model_config(adapter_base(directory));
  const std::string path = join_path(directory, files::kModelConfig);
  try {
    return from_huggingface(read_json_file(path), path);
  } catch (const DataError& error) {
    throw CheckpointError("{}", error.what());
  }
}

void load_weights(const std::string& directory, Parameters& parameters) {
  if (!parameters.device().is_cpu()) {
    Parameters host = parameters.host_copy();
    load_weights(directory, host);
    return parameters.copy_from(host);
  }
  require_valid_checkpoint(directory);
  check_same_model(read_model_config(directory), parameters.config(), directory);
  if (holds_adapter(directory)) return load_adapted(directory, parameters);
  load_model(directory, parameters);
  parameters.refresh_compute();
}

TrainState read_train_state(const std::string& directory) {
  const std::string path = join_path(directory, files::kTrainState);
  try {
    return train_state_from_json(read_json_file(path), path);
  } catch (const DataError& error) {
    throw CheckpointError("{}", error.what());
  }
}

TrainState load_training(const std::string& directory, Parameters& parameters,
                         Optimizer& optimizer) {
  if (!parameters.device().is_cpu()) {
    Parameters host = parameters.host_copy();
    Optimizer of_host = optimizer.of(host);
    TrainState state = load_training(directory, host, of_host);
    parameters.copy_from(host);
    optimizer.copy_moments(of_host);
    return state;
  }
  require_valid_checkpoint(directory);
  check_same_model(read_model_config(directory), parameters.config(), directory);
  const std::string path = join_path(directory, files::kOptimizer);
  if (!path_exists(path))
    throw CheckpointError(
        "{}: holds weights only, without the optimizer's state; go on from latest "
        "or best_model, or start from its weights with --pretrained_model {}",
        directory, directory);
  const OptimizerFiles stored(directory);
  const auto& layout = parameters.layout();
  TrainState state = read_train_state(directory);
  if (parameters.training().adapts()) {
    check_base(state, directory);
    load_adapted(directory, parameters);
  } else {
    load_model(directory, parameters);
    // In bfloat16 what was loaded is rounded: the masters stand beside the moments.
    for (const auto& parameter : layout.parameters)
      if (parameter.trained() && parameters.has_master(parameter))
        stored.load(files::kMasterPrefix + parameter.name, parameters.master(parameter.name));
  }
  stored.load_moments(layout, optimizer);
  parameters.refresh_compute();
  optimizer.t = state.adam_t;
  return state;
}

void load_fp8_state(const std::string& directory, Engine& engine) {
  const auto state = engine.fp8_state();
  if (state.empty()) return;
  const OptimizerFiles stored(directory);
  for (const auto& [name, values] : state) {
    const at::Tensor host = at::empty(values.sizes(), at::kFloat);
    if (!stored.load(name, host))
      throw CheckpointError(
          "{}: tensor '{}' is missing: it was not made with precision fp8; start from its weights "
          "with --pretrained_model {}",
          directory, name, directory);
    values.copy_(host);
  }
  engine.restored_fp8();
}

}  // namespace train_sft
