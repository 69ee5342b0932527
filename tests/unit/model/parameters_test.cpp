#include "train_sft/model/parameters.h"

#include <gtest/gtest.h>

#include <cmath>
#include <set>

#include "train_sft/base/error.h"

namespace train_sft {
namespace {

ModelConfig gpt2_config() {
  ModelConfig config;
  config.family = Family::gpt2;
  config.n_layer = 2;
  config.n_head = 3;
  config.n_embd = 21;
  config.ffn_hidden = 50;
  config.vocab_size = 37;
  config.block_size = 9;
  return config;
}

ModelConfig llama_config() {
  ModelConfig config = gpt2_config();
  config.family = Family::llama;
  config.n_head = 4;
  config.n_kv_head = 2;
  config.n_embd = 24;
  config.qkv_bias = true;
  config.tie_embeddings = false;
  return config;
}

TEST(ParametersTest, CountsTheParametersOfGpt2Small) {
  ModelConfig config;
  config.family = Family::gpt2;
  config.vocab_size = 50257;
  EXPECT_EQ(parameter_layout(config).count(), 124439808);
}

TEST(ParametersTest, CountsTheParametersOfLlama7B) {
  ModelConfig config;
  config.family = Family::llama;
  config.n_layer = 32;
  config.n_head = 32;
  config.n_embd = 4096;
  config.ffn_hidden = 11008;
  config.vocab_size = 32000;
  config.tie_embeddings = false;
  EXPECT_EQ(parameter_layout(config).count(), 6738415616);
}

TEST(ParametersTest, EveryParameterIsAViewOfOneBuffer) {
  for (const ModelConfig& config : {gpt2_config(), llama_config()}) {
    Parameters parameters(config, at::kFloat, at::kBFloat16);
    const auto* base = static_cast<const char*>(parameters.master().data_ptr());
    const auto* gradient_base = static_cast<const char*>(parameters.gradients().data_ptr());
    std::set<std::string> names;
    int64_t end = 0;
    for (const ParameterInfo& info : parameters.layout().parameters) {
      EXPECT_TRUE(names.insert(info.name).second) << info.name;
      EXPECT_GE(info.offset, end) << info.name;
      end = info.offset + info.numel;
      EXPECT_EQ(parameters.master(info.name).data_ptr(), base + info.offset * 4);
      EXPECT_EQ(parameters.gradient(info.name).data_ptr(), gradient_base + info.offset * 4);
      EXPECT_EQ(parameters.compute(info.name).sizes().vec(), info.shape);
    }
    EXPECT_LE(end, parameters.layout().total);
    EXPECT_EQ(parameters.master().numel(), parameters.layout().total);
  }
}

TEST(ParametersTest, ParametersAndGroupsBeginAtSixtyFourBytes) {
  Parameters parameters(llama_config(), at::kFloat, at::kBFloat16);
  const std::set<std::string> inside = {"k_proj.weight", "v_proj.weight", "k_proj.bias",
                                        "v_proj.bias", "up_proj.weight"};
  for (const ParameterInfo& info : parameters.layout().parameters) {
    bool is_inside = false;
    for (const std::string& tail : inside) is_inside = is_inside || info.name.ends_with(tail);
    if (is_inside) continue;
    EXPECT_EQ(info.offset * 2 % 64, 0) << info.name;
    EXPECT_EQ(reinterpret_cast<uintptr_t>(parameters.compute(info.name).data_ptr()) % 64, 0U);
  }
}

TEST(ParametersTest, NeighboursServeAsOneMatrix) {
  Parameters parameters(llama_config(), at::kFloat, at::kFloat);
  const std::string layer = "model.layers.1.self_attn.";
  const at::Tensor qkv = parameters.compute_span(layer + "q_proj.weight", layer + "v_proj.weight");
  EXPECT_EQ(qkv.sizes(), (std::vector<int64_t>{24 + 12 + 12, 24}));
  EXPECT_EQ(qkv[24].data_ptr(), parameters.master(layer + "k_proj.weight").data_ptr());
  EXPECT_EQ(qkv[36].data_ptr(), parameters.master(layer + "v_proj.weight").data_ptr());
  const at::Tensor bias = parameters.gradient_span(layer + "q_proj.bias", layer + "v_proj.bias");
  EXPECT_EQ(bias.sizes(), (std::vector<int64_t>{48}));
  EXPECT_THROW(parameters.compute_span(layer + "q_proj.weight", layer + "o_proj.weight"),
               InternalError);
}

TEST(ParametersTest, UnknownNamesAndMissingGradientsAreErrors) {
  Parameters parameters(gpt2_config(), at::kFloat, at::kFloat, false);
  EXPECT_THROW(parameters.master("transformer.h.2.ln_1.weight"), InternalError);
  EXPECT_THROW(parameters.gradient("transformer.wte.weight"), InternalError);
}

TEST(ParametersTest, OnlyMatricesDecay) {
  for (const ParameterInfo& info : parameter_layout(llama_config()).parameters)
    EXPECT_EQ(info.decay, info.name.find("norm") == std::string::npos &&
                              info.name.find("bias") == std::string::npos)
        << info.name;
}

TEST(ParametersTest, ComputeIsTheMasterWhenTheDtypesAgree) {
  Parameters same(gpt2_config(), at::kFloat, at::kFloat);
  EXPECT_EQ(same.compute().data_ptr(), same.master().data_ptr());
  Parameters rounded(gpt2_config(), at::kFloat, at::kBFloat16);
  initialise(rounded, 1);
  EXPECT_TRUE(rounded.compute().equal(rounded.master().to(at::kBFloat16)));
}

TEST(InitialiseTest, FollowsGpt2) {
  ModelConfig config = gpt2_config();
  config.n_embd = 96;
  config.ffn_hidden = 0;
  Parameters parameters(config, at::kFloat, at::kFloat);
  initialise(parameters, 5);
  const auto deviation = [&](const char* name) {
    return parameters.master(name).std().item<double>();
  };
  const auto mean = [&](const char* name) { return parameters.master(name).mean().item<double>(); };
  EXPECT_NEAR(deviation("transformer.h.0.attn.c_attn.weight"), 0.02, 0.0005);
  EXPECT_NEAR(mean("transformer.h.0.attn.c_attn.weight"), 0.0, 0.0005);
  EXPECT_NEAR(deviation("transformer.h.1.mlp.c_proj.weight"), 0.02 / std::sqrt(4.0), 0.0003);
  EXPECT_EQ(deviation("transformer.ln_f.weight"), 0.0);
  EXPECT_EQ(mean("transformer.ln_f.weight"), 1.0);
  EXPECT_EQ(parameters.master("transformer.h.0.attn.c_attn.bias").abs().max().item<double>(), 0.0);
}

TEST(InitialiseTest, DependsOnSeedAndNameOnly) {
  const ModelConfig config = gpt2_config();
  ModelConfig deeper = config;
  deeper.vocab_size += 5;
  Parameters a(config, at::kFloat, at::kFloat), b(config, at::kFloat, at::kFloat);
  Parameters c(deeper, at::kFloat, at::kFloat);
  initialise(a, 7);
  initialise(b, 8);
  initialise(c, 7);
  const std::string name = "transformer.h.1.attn.c_attn.weight";
  EXPECT_FALSE(a.master(name).equal(b.master(name)));
  EXPECT_TRUE(a.master(name).equal(c.master(name)));
  EXPECT_FALSE(a.master(name).equal(a.master("transformer.h.0.attn.c_attn.weight")));
}

TEST(InitialiseTest, GapsStayZero) {
  Parameters parameters(gpt2_config(), at::kFloat, at::kFloat);
  initialise(parameters, 3);
  int64_t end = 0;
  const float* data = parameters.master().const_data_ptr<float>();
  for (const ParameterInfo& info : parameters.layout().parameters) {
    for (int64_t i = end; i < info.offset; ++i) ASSERT_EQ(data[i], 0.0F) << info.name;
    end = info.offset + info.numel;
  }
  for (int64_t i = end; i < parameters.layout().total; ++i) ASSERT_EQ(data[i], 0.0F);
}

}  // namespace
}  // namespace train_sft
