// A GGUF file as a model. Keys are those of llama.cpp (gguf-py/gguf/constants.py).
#include <functional>
#include <set>

#include "interop/gguf_names.h"
#include "interop/gguf_tokenizer.h"
#include "interop/source_parts.h"
#include "train_sft/base/error.h"
#include "train_sft/base/file.h"
#include "train_sft/interop/gguf.h"

namespace train_sft {
namespace {

// Reads the keys of one architecture and remembers which: a key that nobody asked for is a setting
// that llama.cpp knows and we do not.
class Hyperparameters {
 public:
  Hyperparameters(const GgufFile& file, const std::string& architecture)
      : file_(file), prefix_(architecture + ".") {}

  int64_t size(const std::string& key) { return checked(key, file_.integer(used(key))); }
  int64_t size_or(const std::string& key, int64_t fallback) {
    return checked(key, file_.integer_or(used(key), fallback));
  }
  double number_or(const std::string& key, double fallback) {
    return file_.number_or(used(key), fallback);
  }
  // Only this value is implemented; absent counts as it.
  void only(const std::string& key, const GgufValue& implemented) {
    const auto found = file_.metadata().find(used(key));
    if (found != file_.metadata().end() && found->second != implemented) refuse(found->first);
  }
  // Describes the model without changing what it computes.
  void harmless(const std::string& key) { used(key); }

  void refuse_others() const {
    for (const auto& [key, value] : file_.metadata())
      if (key.starts_with(prefix_) && !used_.contains(key)) refuse(key);
  }

 private:
  std::string used(const std::string& key) {
    used_.insert(prefix_ + key);
    return prefix_ + key;
  }

  int64_t checked(const std::string& key, int64_t value) const {
    if (value < 1 || value >= (int64_t{1} << 31))
      throw CheckpointError("{}: metadata '{}{}' is {}, expected a size from 1 to 2^31",
                            file_.path(), prefix_, key, value);
    return value;
  }

  [[noreturn]] void refuse(const std::string& key) const {
    throw CheckpointError(
        "{}: metadata '{}' is {}, which may change the model's arithmetic and is not implemented "
        "here",
        file_.path(), key, describe(file_.metadata().at(key)));
  }

  static std::string describe(const GgufValue& value) {
    return std::visit(
        [](const auto& v) -> std::string {
          if constexpr (
              requires {
                v.empty();
                v.data();
              } &&
              !requires { v.c_str(); })
            return fmt::format("a list of {}", v.size());
          else
            return fmt::format("{}", v);
        },
        value);
  }

  const GgufFile& file_;
  std::string prefix_;
  std::set<std::string> used_;
};

void read_rotary(Hyperparameters& keys, ModelConfig& config) {
  config.rope_theta = keys.number_or("rope.freq_base", 10000.0);
  config.head_size = keys.size_or("attention.key_length", config.n_embd / config.n_head);
  keys.only("rope.dimension_count", config.head_dim());
  keys.only("attention.value_length", config.head_dim());
  keys.only("rope.scaling.type", std::string("none"));
  keys.only("rope.scaling.factor", 1.0);
  keys.only("rope.scale_linear", 1.0);
  keys.harmless("rope.scaling.original_context_length");
  keys.harmless("rope.scaling.finetuned");
}

ModelConfig read_config(const GgufFile& file, const std::string& architecture) {
  Hyperparameters keys(file, architecture);
  ModelConfig config;
  config.family = architecture == "gpt2" ? Family::gpt2 : Family::llama;
  config.qkv_bias = architecture == "qwen2";
  config.qk_norm = architecture == "qwen3";
  config.n_layer = keys.size("block_count");
  config.n_head = keys.size("attention.head_count");
  config.n_embd = keys.size("embedding_length");
  config.ffn_hidden = keys.size("feed_forward_length");
  config.block_size = keys.size("context_length");
  const int64_t kv_heads = keys.size_or("attention.head_count_kv", config.n_head);
  if (config.family == Family::llama) {
    config.n_kv_head = kv_heads;
    config.norm_eps = keys.number_or("attention.layer_norm_rms_epsilon", 1e-5);
    read_rotary(keys, config);
  } else {
    keys.only("attention.head_count_kv", config.n_head);
    config.norm_eps = keys.number_or("attention.layer_norm_epsilon", 1e-5);
  }
  keys.only("expert_count", int64_t{0});
  keys.only("expert_used_count", int64_t{0});
  keys.harmless("vocab_size");
  keys.refuse_others();
  return config;
}

void read_embedding(const std::vector<SourceTensor>& tensors, ModelSource& model) {
  model.config.tie_embeddings = true;
  for (const SourceTensor& tensor : tensors) {
    if (tensor.name == "output.weight") model.config.tie_embeddings = false;
    if (tensor.name == "token_embd.weight" && !tensor.shape.empty())
      model.config.vocab_size = tensor.shape.front();
  }
  if (model.config.vocab_size == 0)
    throw CheckpointError("{}: tensor 'token_embd.weight' is missing", model.path);
}

Expected expected_of_gguf(const ModelConfig& config, const std::string& parameter) {
  Expected expected{gguf_name(parameter)};
  switch (gguf_order(config, parameter)) {
    case GgufOrder::same:
      break;
    case GgufOrder::transposed:
      expected.rearrange = Rearrange::transpose;
      break;
    case GgufOrder::permuted_q:
      expected.rearrange = Rearrange::unpermute_rotary;
      expected.heads = config.n_head;
      break;
    case GgufOrder::permuted_k:
      expected.rearrange = Rearrange::unpermute_rotary;
      expected.heads = config.kv_heads();
      break;
  }
  return expected;
}

void take_id(const GgufFile& file, const char* key, const char* field, Json& ids) {
  const int64_t id = file.integer_or(std::string("tokenizer.ggml.") + key, -1);
  if (id >= 0) ids[field] = id;
}

}  // namespace

ModelSource open_gguf(const std::string& path, const OpenOptions& options) {
  const auto file = std::make_shared<const GgufFile>(path);
  ModelSource model;
  model.path = path;
  model.format = "GGUF";
  model.files.push_back(file);
  const std::string architecture = file->text("general.architecture");
  static const std::set<std::string> known = {"llama", "qwen2", "qwen3", "gpt2"};
  if (!known.contains(architecture))
    throw CheckpointError(
        "{}: metadata 'general.architecture' is '{}'; llama, qwen2, qwen3 and gpt2 are implemented",
        path, architecture);
  model.config = read_config(*file, architecture);
  std::vector<SourceTensor> tensors;
  for (const GgufTensor& tensor : file->tensors())
    tensors.push_back({tensor.name, tensor.type, tensor.shape, tensor.bytes});
  read_embedding(tensors, model);
  check_config(model);
  match_parameters(model, tensors,
                   [&](const std::string& name) { return expected_of_gguf(model.config, name); });
  take_id(*file, "bos_token_id", "bos_token_id", model.special_ids);
  take_id(*file, "eos_token_id", "eos_token_id", model.special_ids);
  take_id(*file, "padding_token_id", "pad_token_id", model.special_ids);
  if (options.tokenizer.empty()) model.tokenizer = tokenizer_of_gguf(*file);
  model.chat_template = file->text_or("tokenizer.chat_template", "");
  return model;
}

}  // namespace train_sft
