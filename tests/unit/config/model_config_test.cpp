#include "train_sft/config/model_config.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "train_sft/base/error.h"
#include "train_sft/config/parameter_layout.h"

namespace train_sft {
namespace {

using ::testing::HasSubstr;

template <typename ErrorType, typename Call>
std::string error_of(Call call) {
  try {
    call();
  } catch (const ErrorType& error) {
    return error.what();
  }
  return "(no error)";
}

ModelConfig small(Family family) {
  ModelConfig config;
  config.family = family;
  config.n_layer = 2;
  config.n_head = 4;
  config.n_embd = 64;
  config.vocab_size = 100;
  config.block_size = 32;
  return config;
}

// Every size is in order, the offset of the last matrix is none.
TEST(ParameterLayoutTest, RefusesMoreParametersThanOffsets) {
  for (const Family family : {Family::gpt2, Family::llama}) {
    ModelConfig config = small(family);
    config.n_embd = config.ffn_hidden = int64_t{1} << 30;
    validate(config);
    EXPECT_THAT(error_of<UsageError>([&] { parameter_layout(config); }),
                HasSubstr("more than 2^60 parameters"));
  }
}

TEST(ModelConfigTest, FeedForwardDefaultsByFamily) {
  EXPECT_EQ(small(Family::gpt2).ffn(), 256);
  EXPECT_EQ(small(Family::llama).ffn(), 192) << "171 rounded up to a multiple of 64";
  ModelConfig config = small(Family::llama);
  config.n_embd = 4096;
  EXPECT_EQ(config.ffn(), 10944);
  config.ffn_hidden = 11008;
  EXPECT_EQ(config.ffn(), 11008);
}

TEST(ModelConfigTest, WrongShapesNameTheOption) {
  const auto message = [](auto change, Family family = Family::gpt2) {
    ModelConfig config = small(family);
    change(config);
    return error_of<UsageError>([&] { validate(config); });
  };
  EXPECT_EQ(message([](ModelConfig&) {}), "(no error)");
  EXPECT_THAT(message([](ModelConfig& c) { c.n_embd = 66; }), HasSubstr("64, 68"));
  EXPECT_THAT(message([](ModelConfig& c) { c.n_layer = 0; }), HasSubstr("n_layer"));
  EXPECT_THAT(message([](ModelConfig& c) { c.vocab_size = 0; }), HasSubstr("vocab_size"));
  EXPECT_THAT(message([](ModelConfig& c) { c.n_kv_head = 2; }), HasSubstr("n_kv_head"));
  EXPECT_EQ(message([](ModelConfig& c) { c.n_kv_head = 2; }, Family::llama), "(no error)");
  EXPECT_THAT(message([](ModelConfig& c) { c.n_kv_head = 3; }, Family::llama),
              HasSubstr("does not divide n_head 4"));
  EXPECT_THAT(message([](ModelConfig& c) { c.n_embd = 60; }, Family::llama), HasSubstr("odd"));
  EXPECT_THAT(message([](ModelConfig& c) { c.head_size = 15; }, Family::llama), HasSubstr("odd"));
  EXPECT_THAT(message([](ModelConfig& c) { c.head_size = 32; }), HasSubstr("head_size"));
  const auto wide = [](ModelConfig& c) {
    c.n_embd = 66;
    c.head_size = 32;
  };
  EXPECT_EQ(message(wide, Family::llama), "(no error)");
  EXPECT_THAT(message([](ModelConfig& c) { c.qk_norm = c.qkv_bias = true; }, Family::llama),
              HasSubstr("qk_norm and qkv_bias"));
}

TEST(HuggingFaceTest, EveryShapeSurvivesTheRoundTrip) {
  std::vector<ModelConfig> configs;
  for (const Family family : {Family::gpt2, Family::llama}) {
    for (const bool tied : {true, false}) {
      ModelConfig config = small(family);
      config.tie_embeddings = tied;
      configs.push_back(config);
      config.ffn_hidden = 80;
      config.norm_eps = 1e-6;
      configs.push_back(config);
      if (family != Family::llama) continue;
      config.n_kv_head = 2;
      config.rope_theta = 1e6;
      configs.push_back(config);
      config.qkv_bias = true;
      configs.push_back(config);
      config.qkv_bias = false;
      config.qk_norm = true;
      configs.push_back(config);
      config.head_size = 2 * config.head_dim();
      configs.push_back(config);
    }
  }
  for (ModelConfig config : configs) {
    const Json json = to_huggingface(config, 1, 2, -1);
    EXPECT_TRUE(json["pad_token_id"].is_null());
    // Read from text, as from a file.
    const ModelConfig back = from_huggingface(parse_json(dump_json(json), "config.json"), "f");
    config.ffn_hidden = config.ffn();  // what is written is explicit
    if (config.family == Family::llama) {
      config.n_kv_head = config.kv_heads();
      config.head_size = config.head_dim();
    }
    EXPECT_EQ(back, config) << dump_json(json);
  }
}

// config.json of transformers' own GPT2Config(), LlamaConfig(), … of version 5, reduced
// to the fields that matter.
constexpr const char* kGpt2 = R"({"activation_function": "gelu_new", "add_cross_attention": false,
  "attn_pdrop": 0.1, "layer_norm_epsilon": 1e-05, "model_type": "gpt2", "n_embd": 768,
  "n_head": 12, "n_inner": null, "n_layer": 12, "n_positions": 1024,
  "reorder_and_upcast_attn": false, "scale_attn_by_inverse_layer_idx": false,
  "scale_attn_weights": true, "vocab_size": 50257})";
constexpr const char* kLlama = R"({"attention_bias": false, "head_dim": 128, "hidden_act": "silu",
  "hidden_size": 4096, "intermediate_size": 11008, "max_position_embeddings": 2048,
  "mlp_bias": false, "model_type": "llama", "num_attention_heads": 32, "num_hidden_layers": 32,
  "num_key_value_heads": 32, "pretraining_tp": 1, "rms_norm_eps": 1e-06,
  "rope_parameters": {"rope_theta": 500000.0, "rope_type": "default"},
  "tie_word_embeddings": false, "vocab_size": 32000})";
constexpr const char* kQwen2 = R"({"hidden_act": "silu", "hidden_size": 896,
  "intermediate_size": 4864, "max_position_embeddings": 32768, "max_window_layers": 21,
  "model_type": "qwen2", "num_attention_heads": 14, "num_hidden_layers": 24,
  "num_key_value_heads": 2, "rms_norm_eps": 1e-06, "rope_theta": 1000000.0,
  "sliding_window": 32768, "tie_word_embeddings": true, "use_sliding_window": false,
  "layer_types": ["full_attention"], "vocab_size": 151936})";

constexpr const char* kQwen3 =
    R"({"attention_bias": false, "hidden_act": "silu", "hidden_size": 1024,
  "intermediate_size": 3072, "max_position_embeddings": 40960, "max_window_layers": 28,
  "model_type": "qwen3", "num_attention_heads": 16, "num_hidden_layers": 28,
  "num_key_value_heads": 8, "rms_norm_eps": 1e-06, "rope_theta": 1000000,
  "sliding_window": null, "tie_word_embeddings": true, "use_sliding_window": false,
  "vocab_size": 151936})";

TEST(HuggingFaceTest, TransformersOwnConfigurationsAreRead) {
  const ModelConfig gpt2 = from_huggingface(parse_json(kGpt2, "f"), "f");
  EXPECT_EQ(gpt2.ffn(), 3072);
  EXPECT_TRUE(gpt2.tie_embeddings) << "absent: transformers ties GPT-2";
  const ModelConfig llama = from_huggingface(parse_json(kLlama, "f"), "f");
  EXPECT_EQ(llama.rope_theta, 500000.0);
  EXPECT_EQ(llama.norm_eps, 1e-6);
  EXPECT_FALSE(llama.tie_embeddings);
  EXPECT_FALSE(llama.qkv_bias);
  const ModelConfig qwen = from_huggingface(parse_json(kQwen2, "f"), "f");
  EXPECT_TRUE(qwen.qkv_bias);
  EXPECT_EQ(qwen.kv_heads(), 2);
  EXPECT_EQ(qwen.rope_theta, 1e6);
  EXPECT_FALSE(qwen.qk_norm);
  const ModelConfig qwen3 = from_huggingface(parse_json(kQwen3, "f"), "f");
  EXPECT_TRUE(qwen3.qk_norm);
  EXPECT_FALSE(qwen3.qkv_bias);
  EXPECT_EQ(qwen3.head_dim(), 128) << "absent: transformers takes 128, not hidden_size / heads";
  EXPECT_EQ(qwen3.attention_width(), 2048);
}

TEST(HuggingFaceTest, ArithmeticThatIsNotImplementedIsRefusedByName) {
  struct Row {
    const char* base;
    const char* field;
    Json value;
  };
  const std::vector<Row> rows{
      {kGpt2, "activation_function", "gelu"},
      {kGpt2, "scale_attn_by_inverse_layer_idx", true},
      {kGpt2, "scale_attn_weights", false},
      {kGpt2, "add_cross_attention", true},
      {kGpt2, "quantization_config", {{"bits", 4}}},
      {kGpt2, "model_type", "gpt_neox"},
      {kGpt2, "n_layer", "twelve"},
      {kGpt2, "n_layer", -1},
      {kGpt2, "n_embd", 769},
      {kLlama, "attention_bias", true},
      {kLlama, "mlp_bias", true},
      {kLlama, "hidden_act", "gelu"},
      {kQwen3, "attention_bias", true},
      {kQwen3, "head_dim", "wide"},
      {kLlama, "sliding_window", 4096},
      {kLlama, "rope_scaling", {{"type", "linear"}, {"factor", 2.0}}},
      {kLlama, "rope_parameters", {{"rope_type", "yarn"}, {"rope_theta", 1e4}}},
      {kQwen2, "use_sliding_window", true},
      {kQwen2, "layer_types", {"full_attention", "sliding_attention"}},
  };
  for (const Row& row : rows) {
    Json json = parse_json(row.base, "f");
    json[row.field] = row.value;
    const std::string message =
        error_of<CheckpointError>([&] { from_huggingface(json, "dir/config.json"); });
    EXPECT_THAT(message, HasSubstr("dir/config.json")) << row.field;
    EXPECT_THAT(message, HasSubstr(row.field));
  }
}

TEST(HuggingFaceTest, MissingFieldsAreNamed) {
  for (const char* field : {"model_type", "n_layer", "n_embd", "vocab_size", "n_positions"}) {
    Json json = parse_json(kGpt2, "f");
    json.erase(field);
    EXPECT_THAT(error_of<CheckpointError>([&] { from_huggingface(json, "f"); }),
                HasSubstr(fmt::format("no field '{}'", field)));
  }
}

}  // namespace
}  // namespace train_sft
