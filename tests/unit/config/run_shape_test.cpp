#include "train_sft/config/run_shape.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "train_sft/base/error.h"

namespace train_sft {
namespace {

using ::testing::HasSubstr;

std::string batch_error(const TrainConfig& config, int64_t ranks) {
  try {
    resolve_batch(config, ranks);
  } catch (const UsageError& error) {
    return error.what();
  }
  return "(no error)";
}

TrainConfig config_of(int64_t batch_size, int64_t block_size) {
  TrainConfig config;
  config.batch_size = batch_size;
  config.block_size = block_size;
  return config;
}

// Run 1: 75,000 examples, 12,645,675 tokens, block 2048.
TEST(RunShapeTest, FullEpochSftOf112M) {
  TrainConfig config = config_of(8, 2048);
  config.grad_accum = 1;
  config.learning_rate = 7e-5;
  config.min_lr = 1e-5;
  config.lr_schedule = "warmup_plateau_cosine";
  const BatchShape batch = resolve_batch(config, 1);
  EXPECT_EQ(batch.tokens_per_step(), 16384);
  const uint64_t rows = (12645675 + 2047) / 2048;
  struct Row {
    int64_t max_iters, warmup, plateau, decay;
  };
  for (const Row& row : {Row{800, 20, 400, 380}, {400, 10, 200, 190}, {1600, 40, 800, 760}}) {
    config.max_iters = row.max_iters;
    const RunShape run = resolve_run(config, batch, rows);
    EXPECT_EQ(run.steps_per_epoch, 772);
    EXPECT_EQ(run.max_iters, row.max_iters);
    EXPECT_EQ(run.warmup_iters, row.warmup);
    EXPECT_EQ(run.plateau_iters, row.plateau);
    EXPECT_EQ(run.decay_iters, row.decay);
    EXPECT_EQ(run.peak_lr, 7e-5);
    EXPECT_EQ(run.min_lr, 1e-5);
    if (row.max_iters == 800) {
      EXPECT_NEAR(run.epochs(), 1.036, 5e-4);
    }
  }
}

// Run 2: one conversation a row, 32 a step on an 8 GB card.
TEST(RunShapeTest, ShortChatSft) {
  TrainConfig config = config_of(2, 1024);
  config.target_examples_per_step = 32;
  config.max_iters = 300;
  const BatchShape batch = resolve_batch(config, 1);
  EXPECT_EQ(batch.grad_accum, 16);
  const RunShape run = resolve_run(config, batch, 22400);
  EXPECT_EQ(run.max_iters * run.rows_per_step, 9600);
  EXPECT_NEAR(run.epochs(), 0.43, 0.005);
  config.max_iters = -1;
  EXPECT_EQ(resolve_run(config, batch, 22400).max_iters, 700);
  EXPECT_EQ(resolve_run(config, batch, 22401).max_iters, 701);
  config.batch_size = 4;
  config.target_examples_per_step = 64;
  EXPECT_EQ(resolve_batch(config, 1).grad_accum, 16);
}

// Run 3: 49,401 training examples, 65,536 tokens a step.
TEST(RunShapeTest, InstructionTuningEpochsAgainstSteps) {
  TrainConfig config = config_of(8, 1024);
  config.total_batch_size = 65536;
  EXPECT_EQ(resolve_batch(config, 4).grad_accum, 2);
  const BatchShape batch = resolve_batch(config, 1);
  EXPECT_EQ(batch.grad_accum, 8);
  EXPECT_EQ(batch.rows_per_step(), 64);
  struct Row {
    int64_t max_iters;
    double epochs;
  };
  for (const Row& row : {Row{2000, 2.59}, {2300, 2.98}, {3100, 4.02}, {3900, 5.05}}) {
    config.max_iters = row.max_iters;
    const RunShape run = resolve_run(config, batch, 49401);
    EXPECT_EQ(run.steps_per_epoch, 772);
    EXPECT_NEAR(run.epochs(), row.epochs, 0.005) << row.max_iters;
  }
}

// Run 4: 51B tokens, 8 ranks.
TEST(RunShapeTest, ThreeEpochPretraining) {
  TrainConfig config = config_of(8, 1024);
  config.grad_accum = 4;
  config.max_iters = 590625;
  config.warmup_iters = 11812;
  const BatchShape batch = resolve_batch(config, 8);
  EXPECT_EQ(batch.tokens_per_step(), 262144);
  const RunShape run = resolve_run(config, batch, 51000000000ull / 1024);
  EXPECT_NEAR(run.epochs(), 3.036, 5e-4);
  EXPECT_EQ(run.warmup_iters, 11812);
  EXPECT_EQ(run.decay_iters, 590625 - 11812);
  EXPECT_NEAR(static_cast<double>(run.max_iters * batch.tokens_per_step()), 154.8e9, 0.05e9);
}

// Run 5: constant after the warm-up.
TEST(RunShapeTest, ConstantScheduleHasNoDecay) {
  TrainConfig config = config_of(1, 1024);
  config.lr_schedule = "constant";
  config.max_iters = 1000;
  config.warmup_iters = 100;
  const RunShape run = resolve_run(config, resolve_batch(config, 1), 968);
  EXPECT_EQ(run.steps_per_epoch, 968);
  EXPECT_EQ(run.warmup_iters, 100);
  EXPECT_EQ(run.plateau_iters, 900);
  EXPECT_EQ(run.decay_iters, 0);
  config.extend_steps = 10000;
  EXPECT_EQ(resolve_run(config, resolve_batch(config, 1), 968).max_iters, 10000);
}

TEST(RunShapeTest, EpochsBecomeSteps) {
  TrainConfig config = config_of(8, 16);
  const BatchShape batch = resolve_batch(config, 1);
  EXPECT_EQ(resolve_run(config, batch, 100).max_iters, 13) << "nothing said: one epoch";
  config.epochs = 3;
  EXPECT_EQ(resolve_run(config, batch, 100).max_iters, 39) << "each epoch's last step is short";
  EXPECT_DOUBLE_EQ(resolve_run(config, batch, 100).epochs(), 3);
  config.epochs = 0.5;
  EXPECT_EQ(resolve_run(config, batch, 100).max_iters, 7) << "50 rows";
  config.epochs = 2.08;
  EXPECT_EQ(resolve_run(config, batch, 100).max_iters, 27) << "2 × 13 + 8 rows";
}

TEST(RunShapeTest, RunShorterThanItsWarmupEndsInsideIt) {
  TrainConfig config = config_of(1, 16);
  config.max_iters = 5;
  config.warmup_iters = 100;
  const RunShape run = resolve_run(config, resolve_batch(config, 1), 10);
  EXPECT_EQ(run.warmup_iters, 5);
  EXPECT_EQ(run.plateau_iters + run.decay_iters, 0);
}

TEST(RunShapeTest, NoRowsIsAnError) {
  const TrainConfig config = config_of(1, 16);
  EXPECT_THROW(resolve_run(config, resolve_batch(config, 1), 0), UsageError);
}

TEST(ResolveBatchTest, TotalThatDoesNotDivideNamesTheNearest) {
  TrainConfig config = config_of(8, 1024);
  config.total_batch_size = 60000;
  const std::string message = batch_error(config, 1);
  EXPECT_THAT(message, HasSubstr("total_batch_size: 60000"));
  EXPECT_THAT(message, HasSubstr("batch_size 8 × block_size 1024 = 8192"));
  EXPECT_THAT(message, HasSubstr("57344 and 65536"));
  config.total_batch_size = 100;
  EXPECT_THAT(batch_error(config, 4), HasSubstr("nearest that are: 32768"));
  config.total_batch_size.reset();
  config.target_examples_per_step = 33;
  EXPECT_THAT(batch_error(config, 2), HasSubstr("batch_size 8 × 2 ranks = 16"));
}

TEST(ResolveBatchTest, SpellingsThatDisagreeAreNamedBoth) {
  TrainConfig config = config_of(8, 1024);
  config.grad_accum = 4;
  config.total_batch_size = 65536;
  EXPECT_THAT(batch_error(config, 1), HasSubstr("grad_accum 4"));
  EXPECT_THAT(batch_error(config, 1), HasSubstr("total_batch_size 65536 means 8"));
  EXPECT_EQ(batch_error(config, 2), "(no error)");
  config.grad_accum = 8;
  EXPECT_EQ(resolve_batch(config, 1).grad_accum, 8);
}

TEST(RunShapeTest, AutoTakesTheStepFromWhatElseIsSaid) {
  TrainConfig config = config_of(8, 1024);
  config.batch_size_auto = true;
  EXPECT_EQ(resolve_batch(config, 1).rows_per_step(), 8);
  EXPECT_EQ(resolve_batch(config, 4).rows_per_step(), 32);
  config.grad_accum = 3;
  EXPECT_EQ(resolve_batch(config, 1).rows_per_step(), 24);
  EXPECT_EQ(resolve_batch(config, 1).grad_accum, 1);
  config.grad_accum.reset();
  config.target_examples_per_step = 30;
  EXPECT_EQ(resolve_batch(config, 2).batch_size, 15);
  EXPECT_THAT(batch_error(config, 4), HasSubstr("not a multiple"));
  config.target_examples_per_step.reset();
  config.total_batch_size = 7 * 1024;
  EXPECT_EQ(resolve_batch(config, 1).rows_per_step(), 7);
  config.grad_accum = 7;
  EXPECT_THAT(batch_error(config, 1), HasSubstr("grad_accum"));
}

TEST(RunShapeTest, MaxMemory) {
  TrainConfig config;
  const auto bytes = [&](const char* text) {
    config.max_memory = text;
    return resolve_max_memory(config, 1'000'000'000);
  };
  EXPECT_EQ(bytes("90%"), 900'000'000U);
  EXPECT_EQ(bytes("8GB"), 8'000'000'000U);
  EXPECT_EQ(bytes("8 gb"), 8'000'000'000U);
  EXPECT_EQ(bytes("1.5GiB"), 3U << 29);
  EXPECT_EQ(bytes("2000000"), 2'000'000U);
  for (const char* text : {"", "GB", "8GBs", "0", "-1GB", "nan%", "inf", "1e30GB", "0%", "100.1%",
                           "1 000 000", "8", "1kB"})
    EXPECT_THROW(bytes(text), UsageError) << text;
}

}  // namespace
}  // namespace train_sft
