#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "train_sft/base/file.h"
#include "train_sft/config/options.h"
#include "train_sft/config/run_shape.h"

namespace train_sft {
namespace {

Settings preset(const std::string& name) {
  Settings settings;
  const std::string path = std::string(TRAIN_SFT_SOURCE_DIR) + "/configs/" + name + ".json";
  apply_json(settings, read_json_file(path), path);
  return settings;
}

TEST(PresetsTest, EveryPresetIsValidAndDescribed) {
  const std::string directory = std::string(TRAIN_SFT_SOURCE_DIR) + "/configs";
  std::vector<std::string> names;
  for (const std::string& file : list_directory(directory)) {
    names.push_back(file.substr(0, file.rfind('.')));
    SCOPED_TRACE(file);
    EXPECT_FALSE(
        json_string(read_json_file(join_path(directory, file)), "description", file).empty());
    const Settings settings = preset(names.back());
    EXPECT_NO_THROW(validate(settings));
    EXPECT_TRUE(settings.config.data.empty()) << "data is the user's";
  }
  EXPECT_THAT(names, ::testing::IsSupersetOf({"smoke", "tiny", "sft_112m", "chat_sft_8gb",
                                              "instruct_alpaca", "production_8gpu", "h100_1k",
                                              "h100", "gpt2_124m", "shakespeare_char"}));
}

TEST(PresetsTest, CommandsOfTheFiveRunsGiveTheirNumbers) {
  Settings sft = preset("sft_112m");
  for (const auto& [name, value] : std::vector<std::pair<std::string, Json>>{
           {"batch_size", 8}, {"grad_accum", 1}, {"max_iters", 1600}, {"learning_rate", 7e-5}}) {
    sft.set(name, value, "command line");
  }
  validate(sft);
  const BatchShape sft_batch = resolve_batch(sft.config, 1);
  EXPECT_EQ(sft_batch.tokens_per_step(), 16384);
  EXPECT_EQ(resolve_run(sft.config, sft_batch, 6175).plateau_iters, 800);

  Settings chat = preset("chat_sft_8gb");
  chat.set("device_batch_size", 4, "command line");
  chat.set("target_examples_per_step", 64, "command line");
  EXPECT_EQ(resolve_batch(chat.config, 1).grad_accum, 16);

  const Settings alpaca = preset("instruct_alpaca");
  const BatchShape alpaca_batch = resolve_batch(alpaca.config, 1);
  EXPECT_EQ(alpaca_batch.grad_accum, 8);
  EXPECT_EQ(resolve_run(alpaca.config, alpaca_batch, 49401).steps_per_epoch, 772);

  const Settings production = preset("production_8gpu");
  EXPECT_EQ(resolve_batch(production.config, 8).tokens_per_step(), 262144);
  EXPECT_EQ(production.config.max_iters, 590625);
  EXPECT_EQ(*production.config.max_iters / production.config.save_interval, 29);

  const Settings extend = preset("h100_1k");
  const RunShape run = resolve_run(extend.config, resolve_batch(extend.config, 1), 968);
  EXPECT_EQ(run.warmup_iters, 100);
  EXPECT_EQ(run.plateau_iters, 900);
}

}  // namespace
}  // namespace train_sft
