#include "train_sft/train/trainer.h"

#include <gmock/gmock.h>

#include <cmath>
#include <limits>

#include "train/evaluate.h"
#include "train/run_setup.h"
#include "train/step.h"
#include "unit/train/training_fixture.h"

namespace train_sft {
namespace {

using TrainerTest = TrainingTest;

TEST_F(TrainerTest, TheLossFallsAndTheFilesOfARunAreThere) {
  Settings settings = tiny();
  set(settings, "max_iters", 60);
  set(settings, "eval_interval", 20);
  set(settings, "log_interval", 10);
  set(settings, "sample_interval", 20);
  set(settings, "use_tensorboard", true);
  const TrainingResult result = train(settings);
  EXPECT_EQ(result.code, ExitCode::ok);
  EXPECT_EQ(result.stopped_by, "max_iters");
  EXPECT_EQ(column("out", "step"), (std::vector<double>{1, 10, 20, 30, 40, 50, 60}));
  EXPECT_EQ(column("out", "val_loss").size(), 3u);
  EXPECT_LT(result.summary["val_loss"].get<double>(), 2.3);
  EXPECT_GT(column("out", "loss").front(), 2.6);
  for (const char* name : {"training.log", "config.json", "samples.jsonl", "latest", "best_model",
                           "best_model.pt", "step_00000060", "tokenizer"})
    EXPECT_TRUE(path_exists(join_path("out", name))) << name;
  EXPECT_EQ(list_directory("runs").size(), 1u);
  EXPECT_THAT(read_file("out/training.log"), ::testing::HasSubstr("step 60/60"));
  const Json config = Json::parse(read_file("out/config.json"));
  EXPECT_EQ(config["_source"]["max_iters"], "command line");
}

// Sums over the step ÷ sum of weights: how rows are cut into micro-batches changes nothing.
class AccumulationTest : public TrainingTest, public ::testing::WithParamInterface<double> {};

TEST_P(AccumulationTest, OneByEightTwoByFourAndEightByOneAgree) {
  write_conversations("chat.jsonl", 203);  // the last step of an epoch is short, too
  std::vector<std::vector<double>> losses, norms;
  for (const auto& [batch_size, grad_accum] : {std::pair{1, 8}, {2, 4}, {8, 1}}) {
    Settings settings = tiny();
    const std::string out_dir = fmt::format("out{}", batch_size);
    for (const auto& [name, value] :
         std::vector<std::pair<const char*, Json>>{{"data", {"chat.jsonl"}},
                                                   {"block_size", 64},
                                                   {"batch_size", batch_size},
                                                   {"grad_accum", grad_accum},
                                                   {"max_iters", 30},
                                                   {"dropout", GetParam()},
                                                   {"out_dir", out_dir},
                                                   {"learning_rate", 1e-3}})
      set(settings, name, value);
    train(settings);
    losses.push_back(column(out_dir, "loss"));
    norms.push_back(column(out_dir, "grad_norm"));
    ASSERT_EQ(losses.back().size(), 30u);
  }
  for (size_t other : {1u, 2u})
    for (size_t step = 0; step < 20; ++step) {
      EXPECT_NEAR(losses[other][step] / losses[0][step], 1, 1e-5) << "step " << step + 1;
      EXPECT_NEAR(norms[other][step] / norms[0][step], 1, 1e-5) << "step " << step + 1;
    }
}

INSTANTIATE_TEST_SUITE_P(Dropout, AccumulationTest, ::testing::Values(0.0, 0.1));

TEST_F(TrainerTest, ANonFiniteLossSkipsTheUpdateAndTheStepGoesOn) {
  const auto run = set_up_run(tiny());
  take_step(*run);
  const float saved = run->parameters->master().data_ptr<float>()[0];
  run->parameters->master().data_ptr<float>()[0] = std::numeric_limits<float>::quiet_NaN();
  const at::Tensor first = run->optimizer->exp_avg().clone();
  const at::Tensor master = run->parameters->master().clone();
  const StepOutcome bad = take_step(*run);
  EXPECT_TRUE(bad.skipped);
  EXPECT_FALSE(std::isfinite(bad.loss));
  EXPECT_EQ(run->state.step, 2);
  EXPECT_EQ(run->state.data_step, 2);
  EXPECT_EQ(run->state.adam_t, 1);
  EXPECT_EQ(run->state.bad_steps, 1);
  EXPECT_EQ(run->state.skipped, 1);
  EXPECT_TRUE(run->optimizer->exp_avg().equal(first));
  const int64_t rest = master.numel() - 1;  // NaN differs from itself
  EXPECT_TRUE(run->parameters->master().narrow(0, 1, rest).equal(master.narrow(0, 1, rest)));
  run->parameters->master().data_ptr<float>()[0] = saved;
  const StepOutcome good = take_step(*run);
  EXPECT_FALSE(good.skipped);
  EXPECT_EQ(run->state.bad_steps, 0);
  EXPECT_EQ(run->state.skipped, 1);
  EXPECT_EQ(run->state.adam_t, 2);
}

TEST_F(TrainerTest, DivergenceEndsTheRunWithTheLastGoodCheckpointIntact) {
  Settings settings = tiny();
  set(settings, "learning_rate", 1000);
  set(settings, "warmup_iters", 0);
  set(settings, "weight_decay", 1000);  // weights grow a million-fold a step, to infinity
  set(settings, "max_iters", 100);
  set(settings, "save_interval", 2);
  set(settings, "eval_interval", -1);
  set(settings, "max_bad_steps", 3);
  const TrainingResult result = train(settings);
  EXPECT_EQ(result.code, ExitCode::diverged);
  EXPECT_EQ(result.summary["skipped"], 3);
  EXPECT_LT(result.summary["step"].get<int>(), 30);
  const std::string newest = newest_valid_checkpoint("out");
  ASSERT_FALSE(newest.empty());
  EXPECT_EQ(result.summary["checkpoint"], newest);
  EXPECT_EQ(metrics("out").back()["skipped"], true);
}

TEST_F(TrainerTest, StopsEarlyWhenValidationNoLongerImproves) {
  Settings settings = tiny();
  set(settings, "learning_rate", 0.0);
  set(settings, "max_iters", 100);
  set(settings, "early_stop_patience", 2);
  const TrainingResult result = train(settings);
  EXPECT_EQ(result.stopped_by, "early_stop");
  EXPECT_EQ(result.code, ExitCode::ok);
  EXPECT_EQ(result.summary["step"], 12) << "evaluations at 4, 8 and 12";
  EXPECT_EQ(result.summary["best_step"], 4);
  EXPECT_EQ(read_link("out/best_model"), "step_00000004");
}

TEST_F(TrainerTest, BestFollowsLatestWithoutEvaluation) {
  Settings settings = tiny();
  set(settings, "eval_interval", -1);
  train(settings);
  EXPECT_TRUE(column("out", "val_loss").empty());
  EXPECT_EQ(read_link("out/best_model.pt"), "step_00000012");
}

TEST_F(TrainerTest, ValidationLossDoesNotDependOnTheBatchSize) {
  std::vector<double> losses;
  for (const int batch_size : {1, 3, 8}) {
    Settings settings = tiny();
    set(settings, "batch_size", batch_size);
    set(settings, "out_dir", fmt::format("out{}", batch_size));
    losses.push_back(evaluate(*set_up_run(settings)).value().val_loss.value());
  }
  EXPECT_NEAR(losses[1], losses[0], 1e-6);
  EXPECT_NEAR(losses[2], losses[0], 1e-6);
}

TEST_F(TrainerTest, ARunWithoutValidationNeedsNoSplit) {
  Settings settings = tiny();
  set(settings, "val_split", 0.0);
  EXPECT_EQ(train(settings).code, ExitCode::ok);
}

TEST_F(TrainerTest, TheSameSettingsGiveTheSameWeights) {
  Settings settings = tiny();
  train(settings);
  set(settings, "out_dir", "again");
  train(settings);
  expect_same_files("out/latest", "again/latest", {"model.safetensors", "optimizer.safetensors"});
}

TEST_F(TrainerTest, ATokenizerThatDoesNotFitTheModelIsRefused) {
  train(tiny());
  Settings settings = tiny();
  settings.source.erase("tokenizer_type");
  set(settings, "tokenizer", "out/tokenizer");
  set(settings, "vocab_size", 5);
  set(settings, "out_dir", "small");
  EXPECT_THAT(message_of<UsageError>(settings), ::testing::HasSubstr("do not fit"));
}

}  // namespace
}  // namespace train_sft
