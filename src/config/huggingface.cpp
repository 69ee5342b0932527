// config.json of transformers. Field names, their meaning and the defaults of absent fields are
// those of GPT2Config, LlamaConfig, Qwen2Config and Qwen3Config.
#include <string>
#include <vector>

#include "train_sft/base/error.h"
#include "train_sft/config/model_config.h"

namespace train_sft {
namespace {

Json id_or_null(int id) {
  return id < 0 ? Json(nullptr) : Json(id);
}

Json gpt2_fields(const ModelConfig& config) {
  Json json;
  json["architectures"] = {"GPT2LMHeadModel"};
  json["model_type"] = "gpt2";
  json["n_layer"] = config.n_layer;
  json["n_head"] = config.n_head;
  json["n_embd"] = config.n_embd;
  json["n_inner"] = config.ffn() == 4 * config.n_embd ? Json(nullptr) : Json(config.ffn());
  json["n_positions"] = config.block_size;
  json["activation_function"] = "gelu_new";
  json["layer_norm_epsilon"] = config.norm_eps;
  json["scale_attn_weights"] = true;
  json["scale_attn_by_inverse_layer_idx"] = false;
  // Dropout belongs to a training run, not to the model; transformers would assume 0.1.
  for (const char* field : {"resid_pdrop", "embd_pdrop", "attn_pdrop"}) json[field] = 0.0;
  return json;
}

Json llama_fields(const ModelConfig& config) {
  const bool qwen = config.qkv_bias || config.qk_norm;
  Json json;
  json["architectures"] = {config.qk_norm ? "Qwen3ForCausalLM"
                           : qwen         ? "Qwen2ForCausalLM"
                                          : "LlamaForCausalLM"};
  json["model_type"] = config.qk_norm ? "qwen3" : qwen ? "qwen2" : "llama";
  json["num_hidden_layers"] = config.n_layer;
  json["num_attention_heads"] = config.n_head;
  json["num_key_value_heads"] = config.kv_heads();
  json["hidden_size"] = config.n_embd;
  json["intermediate_size"] = config.ffn();
  json["max_position_embeddings"] = config.block_size;
  json["hidden_act"] = "silu";
  json["rms_norm_eps"] = config.norm_eps;
  json["rope_theta"] = config.rope_theta;  // read by transformers 4; version 5 reads the next
  json["rope_parameters"] = {{"rope_type", "default"}, {"rope_theta", config.rope_theta}};
  json["attention_dropout"] = 0.0;
  json["head_dim"] = config.head_dim();
  if (qwen) json["use_sliding_window"] = false;
  if (!config.qkv_bias) json["attention_bias"] = false;
  if (!qwen) json["mlp_bias"] = false;
  return json;
}

// Reads one config.json; every refusal names the file and the field.
class Reader {
 public:
  Reader(const Json& config, const std::string& where) : config_(config), where_(where) {}

  int64_t required_size(const char* field) const {
    const Json* value = find(field);
    if (value == nullptr) throw CheckpointError("{}: no field '{}'", where_, field);
    return size(field, *value);
  }
  int64_t size_or(const char* field, int64_t otherwise) const {
    const Json* value = find(field);
    return value == nullptr ? otherwise : size(field, *value);
  }
  double number_or(const char* field, double otherwise) const {
    const Json* value = find(field);
    if (value == nullptr) return otherwise;
    if (!value->is_number()) wrong(field, *value, "a number");
    return value->get<double>();
  }
  bool bool_or(const char* field, bool otherwise) const {
    const Json* value = find(field);
    if (value == nullptr) return otherwise;
    if (!value->is_boolean()) wrong(field, *value, "true or false");
    return value->get<bool>();
  }
  // The field may only be absent or one of these: anything else is maths we do not have.
  void only(const char* field, const std::vector<Json>& implemented) const {
    const Json* value = find(field);
    if (value == nullptr) return;
    for (const Json& allowed : implemented) {
      if (*value == allowed) return;
    }
    refuse(field, *value);
  }
  [[noreturn]] void refuse(const char* field, const Json& value) const {
    throw CheckpointError(
        "{}: field '{}' is {}, which changes the model's arithmetic and is not "
        "implemented here",
        where_, field, value.dump());
  }
  // Null counts as absent, as in transformers.
  const Json* find(const char* field) const {
    const auto found = config_.find(field);
    return found == config_.end() || found->is_null() ? nullptr : &*found;
  }
  const std::string& where() const { return where_; }

 private:
  int64_t size(const char* field, const Json& value) const {
    if (!value.is_number_integer()) wrong(field, value, "an integer");
    if (value < 1 || value >= (int64_t{1} << 31)) wrong(field, value, "a size from 1 to 2^31");
    return value.get<int64_t>();
  }
  [[noreturn]] void wrong(const char* field, const Json& value, const char* expected) const {
    throw CheckpointError("{}: field '{}' is {}, expected {}", where_, field, value.dump(),
                          expected);
  }

  const Json& config_;
  const std::string& where_;
};

ModelConfig read_gpt2(const Reader& reader) {
  ModelConfig config;
  config.family = Family::gpt2;
  config.n_layer = reader.required_size("n_layer");
  config.n_head = reader.required_size("n_head");
  config.n_embd = reader.required_size("n_embd");
  config.ffn_hidden = reader.size_or("n_inner", 4 * config.n_embd);
  config.vocab_size = reader.required_size("vocab_size");
  config.block_size = reader.required_size("n_positions");
  config.norm_eps = reader.number_or("layer_norm_epsilon", 1e-5);
  config.tie_embeddings = reader.bool_or("tie_word_embeddings", true);
  // gelu_pytorch_tanh is the same function under another name.
  reader.only("activation_function", {"gelu_new", "gelu_pytorch_tanh"});
  reader.only("scale_attn_weights", {true});
  reader.only("scale_attn_by_inverse_layer_idx", {false});
  reader.only("add_cross_attention", {false});
  return config;
}

void read_rope(const Reader& reader, ModelConfig& config) {
  config.rope_theta = reader.number_or("rope_theta", 10000.0);
  reader.only("partial_rotary_factor", {1.0});
  // Version 4 of transformers: rope_scaling; version 5: rope_parameters, theta inside.
  for (const char* field : {"rope_scaling", "rope_parameters"}) {
    const Json* rope = reader.find(field);
    if (rope == nullptr) continue;
    if (!rope->is_object()) reader.refuse(field, *rope);
    const Reader inner(*rope, reader.where());
    for (const char* type : {"rope_type", "type"}) {
      if (const Json* kind = inner.find(type); kind != nullptr && *kind != "default") {
        reader.refuse(field, *rope);
      }
    }
    if (const Json* part = inner.find("partial_rotary_factor"); part != nullptr && *part != 1.0) {
      reader.refuse(field, *rope);
    }
    config.rope_theta = inner.number_or("rope_theta", config.rope_theta);
  }
}

ModelConfig read_llama(const Reader& reader, const std::string& type) {
  ModelConfig config;
  config.family = Family::llama;
  config.qkv_bias = type == "qwen2";
  config.qk_norm = type == "qwen3";
  config.n_layer = reader.required_size("num_hidden_layers");
  config.n_head = reader.required_size("num_attention_heads");
  config.n_kv_head = reader.size_or("num_key_value_heads", config.n_head);
  config.n_embd = reader.required_size("hidden_size");
  config.ffn_hidden = reader.required_size("intermediate_size");
  config.vocab_size = reader.required_size("vocab_size");
  config.block_size = reader.required_size("max_position_embeddings");
  config.norm_eps = reader.number_or("rms_norm_eps", 1e-6);
  config.tie_embeddings = reader.bool_or("tie_word_embeddings", false);
  read_rope(reader, config);
  reader.only("hidden_act", {"silu", "swish"});
  reader.only("attention_bias", {false});
  reader.only("mlp_bias", {false});
  config.head_size = reader.size_or("head_dim", config.qk_norm ? 128 : 0);
  if (config.n_embd % config.n_head == 0) config.head_size = config.head_dim();
  reader.only("use_sliding_window", {false});
  if (type == "llama") reader.only("sliding_window", {});
  if (const Json* layers = reader.find("layer_types"); layers != nullptr && layers->is_array()) {
    for (const Json& layer : *layers) {
      if (layer != "full_attention") reader.refuse("layer_types", layer);
    }
  }
  return config;
}

}  // namespace

Json to_huggingface(const ModelConfig& config, int bos_id, int eos_id, int pad_id) {
  Json json = config.family == Family::gpt2 ? gpt2_fields(config) : llama_fields(config);
  json["vocab_size"] = config.vocab_size;
  json["tie_word_embeddings"] = config.tie_embeddings;
  json["initializer_range"] = 0.02;
  json["bos_token_id"] = id_or_null(bos_id);
  json["eos_token_id"] = id_or_null(eos_id);
  json["pad_token_id"] = id_or_null(pad_id);
  json["use_cache"] = true;
  return json;
}

ModelConfig from_huggingface(const Json& json, const std::string& where) {
  if (!json.is_object()) throw CheckpointError("{}: expected a JSON object", where);
  const Reader reader(json, where);
  reader.only("quantization_config", {});
  const Json* type = reader.find("model_type");
  if (type == nullptr) throw CheckpointError("{}: no field 'model_type'", where);
  ModelConfig config;
  if (*type == "gpt2") {
    config = read_gpt2(reader);
  } else if (*type == "llama" || *type == "qwen2" || *type == "qwen3") {
    config = read_llama(reader, type->get<std::string>());
  } else {
    throw CheckpointError("{}: field 'model_type' is {}, expected gpt2, llama, qwen2 or qwen3",
                          where, type->dump());
  }
  try {
    validate(config);
  } catch (const UsageError& error) {
    throw CheckpointError("{}: {}", where, error.what());
  }
  return config;
}

}  // namespace train_sft
