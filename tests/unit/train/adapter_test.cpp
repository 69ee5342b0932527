// Runs that train adapters, or a part of the parameters: what is stored, and that they go on
// exactly.
#include "train_sft/interop/adapter.h"

#include <gmock/gmock.h>

#include "train/run_setup.h"
#include "train_sft/interop/safetensors.h"
#include "unit/train/training_fixture.h"

namespace train_sft {
namespace {

using ::testing::HasSubstr;

class AdapterTest : public TrainingTest {
 protected:
  // A model to adapt, in base/latest.
  void make_base() {
    Settings settings = tiny();
    set(settings, "out_dir", "base");
    set(settings, "family", "llama");
    set(settings, "max_iters", 2);
    train(settings);
  }
  Settings from_base() {
    Settings settings = tiny();
    set(settings, "pretrained_model", "base/latest");
    set(settings, "save_interval", 1);
    set(settings, "keep", 0);
    set(settings, "keep_optimizer", 100);
    return settings;
  }
  Settings adapting() {
    Settings settings = from_base();
    set(settings, "lora_rank", 4);
    set(settings, "lora_targets", Json::array({"q_proj,v_proj", "down_proj"}));
    return settings;
  }
  static void cut_at(const std::string& from, const std::string& to, int64_t step) {
    std::filesystem::copy(
        from, to,
        std::filesystem::copy_options::recursive | std::filesystem::copy_options::copy_symlinks);
    for (const auto& name : list_directory(to))
      if (name.starts_with("step_") && std::stoll(name.substr(5)) > step)
        remove_tree(join_path(to, name));
  }
  static std::vector<std::string> names_in(const std::string& path) {
    std::vector<std::string> names;
    const SafetensorsFile file(path);
    for (const auto& entry : file.entries()) names.push_back(entry.name);
    return names;
  }
};

class CutRuns : public AdapterTest, public ::testing::WithParamInterface<const char*> {};

TEST_P(CutRuns, ACutRunOfAdaptersEqualsTheUncutOne) {
  make_base();
  Settings settings = adapting();
  set(settings, "precision", GetParam());
  set(settings, "dropout", 0.1);
  ASSERT_EQ(train(settings).summary["step"], 12);
  cut_at("out", "cut", 5);
  Settings resumed = tiny();
  set(resumed, "out_dir", "cut");
  set(resumed, "resume", "auto");
  set(resumed, "save_interval", 1);
  ASSERT_EQ(train(resumed).summary["step"], 12);
  expect_same_files("out/step_00000012", "cut/step_00000012",
                    {kAdapterWeights, kAdapterConfig, "optimizer.safetensors"});
  EXPECT_EQ(column("out", "loss"), column("cut", "loss"));
}

TEST_P(CutRuns, ACutRunWithFrozenParametersEqualsTheUncutOneAndLeavesThemAlone) {
  make_base();
  Settings settings = from_base();
  set(settings, "precision", GetParam());
  set(settings, "freeze", Json::array({"model.embed_tokens.*", "*norm*"}));
  train(settings);
  cut_at("out", "cut", 5);
  Settings resumed = tiny();
  set(resumed, "out_dir", "cut");
  set(resumed, "resume", "auto");
  set(resumed, "save_interval", 1);
  train(resumed);
  expect_same_files("out/step_00000012", "cut/step_00000012",
                    {"model.safetensors", "optimizer.safetensors"});

  const auto values = [](const std::string& directory, const std::string& name) {
    const ModelSource model = open_model(directory);
    std::vector<float> out;
    for (const ParameterInfo& info : parameter_layout(model.config).parameters)
      if (info.name == name) out.resize(static_cast<size_t>(info.numel));
    read_parameter(model, name, out);
    return out;
  };
  const std::string bf16 = GetParam();
  for (const std::string name : {"model.embed_tokens.weight", "model.norm.weight"}) {
    std::vector<float> before = values("base/latest", name);
    if (bf16 == "bf16")
      for (float& value : before) value = static_cast<float>(at::BFloat16(value));
    EXPECT_EQ(values("out/latest", name), before) << name;
    for (const std::string& stored : names_in("out/latest/optimizer.safetensors"))
      EXPECT_THAT(stored, ::testing::Not(HasSubstr(name)));
  }
  const std::string trained = "model.layers.0.mlp.up_proj.weight";
  EXPECT_NE(values("out/latest", trained), values("base/latest", trained));
}

INSTANTIATE_TEST_SUITE_P(Precisions, CutRuns, ::testing::Values("fp32", "bf16"));

TEST_F(AdapterTest, ACheckpointHoldsTheAdapterAlone) {
  make_base();
  const Settings settings = adapting();
  const auto run = set_up_run(settings);
  const ParameterLayout& layout = run->parameters->layout();
  EXPECT_EQ(run->parameters->gradients().numel(), layout.trained_total);
  EXPECT_EQ(run->optimizer->exp_avg().numel(), layout.trained_total);
  EXPECT_LT(layout.trained_total, layout.total / 2);
  EXPECT_EQ(layout.trained_count(), 4 * (16 + 16) * 2 + 4 * (64 + 16));
}

TEST_F(AdapterTest, WhatCannotBeAdaptedIsSaid) {
  Settings fresh = tiny();
  set(fresh, "lora_rank", 4);
  EXPECT_THAT(message_of<UsageError>(fresh), HasSubstr("--pretrained_model"));
  make_base();
  Settings settings = adapting();
  set(settings, "lora_targets", Json::array({"c_attn"}));
  EXPECT_THAT(message_of<UsageError>(settings),
              ::testing::AllOf(HasSubstr("'c_attn'"), HasSubstr("q_proj")));
  settings = from_base();
  set(settings, "freeze", Json::array({"*k_proj*"}));
  EXPECT_THAT(message_of<UsageError>(settings), HasSubstr("one matrix"));
  set(settings, "freeze", Json::array({"nothing*"}));
  EXPECT_THAT(message_of<UsageError>(settings), HasSubstr("'nothing*'"));
  set(settings, "freeze", Json::array({"*"}));
  EXPECT_THAT(message_of<UsageError>(settings), HasSubstr("nothing is left"));
  set(settings, "lora_rank", 2);
  EXPECT_THAT(message_of<UsageError>(settings), HasSubstr("contradicts"));
}

TEST_F(AdapterTest, AnotherBaseIsNotGoneOnWith) {
  make_base();
  train(adapting());
  Settings other = tiny();
  set(other, "out_dir", "other");
  set(other, "family", "llama");
  set(other, "max_iters", 3);
  train(other);
  std::filesystem::copy_file(std::filesystem::canonical("other/latest") / "model.safetensors",
                             std::filesystem::canonical("base/latest") / "model.safetensors",
                             std::filesystem::copy_options::overwrite_existing);
  remove_tree((std::filesystem::canonical("base/latest") / "manifest.json").string());
  Settings resumed = tiny();
  set(resumed, "resume", "auto");
  set(resumed, "max_iters", 12);
  EXPECT_THAT(message_of<CheckpointError>(resumed), HasSubstr("not the model it was trained on"));
}

}  // namespace
}  // namespace train_sft
