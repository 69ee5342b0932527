// Spikes and divergence: what is reported, what is skipped, how a run goes back, and that all of it
// repeats bit for bit.
#include <gmock/gmock.h>

#include <cmath>
#include <limits>

#include "train/run_setup.h"
#include "train/spikes.h"
#include "train/step.h"
#include "train_sft/train/checkpoint.h"
#include "unit/train/training_fixture.h"

namespace train_sft {
namespace {

using ::testing::HasSubstr;
using HealthTest = TrainingTest;

// Losses around 3 that vary by about a tenth, norms around 1.
void fill_window(TrainState& state, int steps) {
  const CounterRng rng(3, 0);
  for (int i = 0; i < steps; ++i)
    remember_step(state, 3 + 0.1 * rng.normal(static_cast<uint64_t>(2 * i)),
                  1 + 0.05 * rng.normal(static_cast<uint64_t>(2 * i + 1)), 6);
}

TEST_F(HealthTest, AScoreCountsStandardDeviationsAboveTheWindow) {
  TrainState state;
  fill_window(state, 19);
  EXPECT_EQ(spike_score(state, 100, 100).highest(), 0) << "too few steps to say";
  fill_window(state, 400);
  EXPECT_EQ(state.recent_losses.size(), 100u);
  EXPECT_NEAR(spike_score(state, 3.8, 1).loss, 8, 1.5);
  EXPECT_NEAR(spike_score(state, 3, 1.5).grad_norm, 10, 2);
  EXPECT_LT(spike_score(state, 1, 0.1).highest(), 0) << "falling is no spike";
}

TEST_F(HealthTest, OneSpikeDoesNotHideTheNextAndANewLevelIsBelievedIn) {
  TrainState state;
  fill_window(state, 100);
  for (int i = 0; i < 3; ++i) {
    EXPECT_GT(spike_score(state, 30, 1).loss, 6) << i;
    remember_step(state, 30, 1, 6);
  }
  for (int i = 0; i < 100; ++i) remember_step(state, 30, 1, 6);
  EXPECT_LT(spike_score(state, 30, 1).loss, 6);
}

TEST_F(HealthTest, EqualValuesMakeNoSpikesOfTrifles) {
  TrainState state;
  for (int i = 0; i < 50; ++i) remember_step(state, 2, 0, 6);
  EXPECT_LT(spike_score(state, 2.01, 0).highest(), 6);
  EXPECT_EQ(spike_score(state, 2, 1).grad_norm, 0) << "a window of zeros has no scale";
}

// A run one of whose steps meets weights blown up a little: a finite, large loss.
class SpikeRun : public TrainingTest, public ::testing::WithParamInterface<double> {};

TEST_P(SpikeRun, IsCountedAndSkippedWhenAsked) {
  Settings settings = tiny();
  set(settings, "max_iters", 60);
  set(settings, "eval_interval", -1);
  set(settings, "skip_spikes", GetParam());
  const auto run = set_up_run(settings);
  for (int i = 0; i < 40; ++i) ASSERT_FALSE(take_step(*run).skipped) << i;
  const int64_t before = run->state.spikes;
  const at::Tensor good = run->parameters->master().clone();
  run->parameters->master().mul_(8);
  const at::Tensor bad = run->parameters->master().clone();
  const int64_t t = run->optimizer->t;
  const StepOutcome outcome = take_step(*run);
  EXPECT_TRUE(std::isfinite(outcome.loss));
  EXPECT_EQ(run->state.spikes, before + 1);
  EXPECT_EQ(outcome.skipped, GetParam() > 0);
  EXPECT_EQ(run->parameters->master().equal(bad), GetParam() > 0);
  EXPECT_EQ(run->optimizer->t, GetParam() > 0 ? t : t + 1);
  EXPECT_EQ(run->state.bad_steps, 0) << "a spike is finite";
  EXPECT_EQ(run->state.step, 41);
  if (GetParam() == 0) return;
  run->parameters->master().copy_(good);
  EXPECT_FALSE(take_step(*run).skipped);
  EXPECT_EQ(run->state.skipped, 1);
  run->parameters->master().copy_(bad);
  int skipped = 0;
  for (int i = 0; i < 8; ++i) skipped += take_step(*run).skipped;
  EXPECT_EQ(skipped, 5) << "a level that stays is believed in";
}

INSTANTIATE_TEST_SUITE_P(Limits, SpikeRun, ::testing::Values(0.0, 8.0));

TEST_F(HealthTest, TheWindowIsPartOfACheckpoint) {
  Settings settings = tiny();
  set(settings, "max_iters", 40);
  set(settings, "learning_rate", 1e-4);
  set(settings, "skip_spikes", 0.5);  // so low that steps are skipped
  set(settings, "save_interval", 10);
  set(settings, "keep", 0);
  set(settings, "keep_optimizer", 10);
  const TrainingResult whole = train(settings);
  ASSERT_GT(whole.summary["skipped"], 2) << "the test needs skipped steps";
  std::filesystem::copy(
      "out", "cut",
      std::filesystem::copy_options::recursive | std::filesystem::copy_options::copy_symlinks);
  for (const char* later : {"cut/step_00000040", "cut/step_00000030"}) remove_tree(later);
  set(settings, "out_dir", "cut");
  set(settings, "resume", "auto");
  const TrainingResult cut = train(settings);
  EXPECT_EQ(cut.summary["skipped"], whole.summary["skipped"]);
  expect_same_files("out/step_00000040", "cut/step_00000040",
                    {"model.safetensors", "optimizer.safetensors"});
  EXPECT_EQ(read_train_state("out/latest").recent_losses,
            read_train_state("cut/latest").recent_losses);
}

// Weights that decay past zero: multiplied by 1 − 3.9 each step they grow without end, at half that
// learning rate by 1 − 1.95 they shrink.
Settings diverging(Settings settings) {
  const auto set = [&](const char* name, const Json& value) {
    settings.set(name, value, "command line");
  };
  set("learning_rate", 0.39);
  set("min_lr", 0.39);
  set("weight_decay", 10);
  set("warmup_iters", 0);
  set("lr_schedule", "constant");
  set("max_iters", 150);
  set("save_interval", 5);
  set("eval_interval", -1);
  set("max_bad_steps", 3);
  set("on_divergence", "rollback");
  return settings;
}

TEST_F(HealthTest, RollbackGoesBackWithALowerLearningRateAndFinishes) {
  const TrainingResult result = train(diverging(tiny()));
  EXPECT_EQ(result.stopped_by, "max_iters");
  EXPECT_EQ(result.code, ExitCode::ok);
  EXPECT_THAT(read_file("out/training.log"), HasSubstr("going back to out/step_"));
  const TrainState state = read_train_state("out/latest");
  EXPECT_EQ(state.rollbacks, 1);
  EXPECT_DOUBLE_EQ(state.lr_scale, 0.5);
  const auto lr = column("out", "lr");
  ASSERT_EQ(lr.size(), 150u) << "each step once";
  EXPECT_DOUBLE_EQ(lr.front(), 0.39);
  EXPECT_DOUBLE_EQ(lr.back(), 0.195);
}

TEST_F(HealthTest, ARunKilledBeforeOrAfterItsRollbackEndsTheSame) {
  const Settings settings = diverging(tiny());
  train(settings);
  const auto lr = column("out", "lr");
  const auto back = static_cast<int64_t>(
      std::count(lr.begin(), lr.end(), 0.39));  // the checkpoint it went back to
  for (const int64_t cut : {back - 5, back, back + 5, back + 20}) {
    Settings stopped = settings;
    const std::string out_dir = fmt::format("cut{}", cut);
    set(stopped, "out_dir", out_dir);
    set(stopped, "keep", 0);
    set(stopped, "keep_optimizer", 100);
    train(stopped);
    for (const auto& name : list_directory(out_dir))
      if (name.starts_with("step_") && std::stoll(name.substr(5)) > cut)
        remove_tree(join_path(out_dir, name));
    set(stopped, "resume", "auto");
    EXPECT_EQ(train(stopped).stopped_by, "max_iters");
    expect_same_files("out/latest", join_path(out_dir, "latest"),
                      {"model.safetensors", "optimizer.safetensors"});
    EXPECT_EQ(column(out_dir, "lr"), lr);
  }
}

TEST_F(HealthTest, AfterThreeRollbacksTheRunEnds) {
  Settings settings = diverging(tiny());
  set(settings, "learning_rate", 400);
  set(settings, "min_lr", 400);
  set(settings, "save_interval", 1);
  const TrainingResult result = train(settings);
  EXPECT_EQ(result.code, ExitCode::diverged);
  EXPECT_THAT(read_file("out/training.log"), HasSubstr("rollback 3 of 3"));
  EXPECT_EQ(verify_checkpoint(result.summary["checkpoint"]), "");
}

TEST_F(HealthTest, WithoutACheckpointThereIsNothingToGoBackTo) {
  Settings settings = diverging(tiny());
  set(settings, "save_interval", 1000);
  EXPECT_EQ(train(settings).code, ExitCode::diverged);
  EXPECT_FALSE(path_exists("out/latest"));
}

}  // namespace
}  // namespace train_sft
