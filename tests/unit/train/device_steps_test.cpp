// Steps of a device, whose results the host reads a step late.
#include <gmock/gmock.h>

#include <csignal>
#include <filesystem>
#include <numeric>

#include "train/run_setup.h"
#include "train/spikes.h"
#include "train/step.h"
#include "train_sft/base/signals.h"
#include "train_sft/base/test_point.h"
#include "unit/train/device_run_fixture.h"

namespace train_sft {
namespace {

class DeviceStepsTest : public DeviceRunTest {
 protected:
  Settings steps_alone(const std::string& out_dir, int64_t steps = 40) {
    return DeviceRunTest::steps_alone(chat(out_dir), steps);
  }
  static int64_t micro_steps_;
  static int64_t stop_at_;
};
int64_t DeviceStepsTest::micro_steps_ = 0;
int64_t DeviceStepsTest::stop_at_ = 0;

TEST_F(DeviceStepsTest, InSteadyStateTheDeviceNeverWaitsForTheHost) {
  const auto run = expect_no_waits_in_steady_state(chat("out"));
  const int64_t waits = device_.counts().waits;
  EXPECT_TRUE(run->in_flight);
  EXPECT_EQ(run->state.step, 18);
  take_step(*run);  // without leave to go on
  EXPECT_FALSE(run->in_flight);
  EXPECT_GT(device_.counts().waits, waits);
}

TEST_F(DeviceStepsTest, WhatIsBegunEarlyHasTheBitsOfWhatIsNot) {
  std::vector<double> early, late;
  for (std::vector<double>* losses : {&early, &late}) {
    const bool goes_on = losses == &early;
    const auto run = set_up_run(steps_alone(goes_on ? "early" : "late"));
    for (int i = 0; i < 20; ++i) {
      const StepOutcome outcome = take_step(*run, goes_on && i < 19);
      losses->insert(losses->end(), {outcome.loss, outcome.grad_norm, outcome.lr,
                                     static_cast<double>(outcome.tokens)});
      EXPECT_EQ(run->state.step, i + 1);
      EXPECT_EQ(run->state.adam_t, i + 1);
    }
    losses->push_back(static_cast<double>(run->state.tokens));
    losses->push_back(static_cast<double>(run->state.examples));
    losses->push_back(fake_device::on_host(run->parameters->master()).sum().item<double>());
  }
  EXPECT_EQ(early, late);
}

TEST_F(DeviceStepsTest, EachStepHasARecordOfItsOwn) {
  train(steps_alone("device"));
  Settings on_host = steps_alone("cpu");
  set(on_host, "device", "cpu");
  train(on_host);
  std::vector<double> steps(40);
  std::iota(steps.begin(), steps.end(), 1);
  EXPECT_EQ(column("device", "step"), steps);
  for (const char* name : {"lr", "tokens", "examples", "epoch"})
    EXPECT_EQ(column("device", name), column("cpu", name)) << name;
  for (const char* name : {"loss", "grad_norm"})
    expect_near(column("device", name), column("cpu", name), 1e-3);
  EXPECT_GT(device_.counts().waits_behind, 36);
}

// A stop comes at any micro-step, of the step that is next or of the one begun after it.
TEST_F(DeviceStepsTest, AStopAnywhereLeavesACheckpointOfAKnownStepAndTheRunGoesOnBitForBit) {
  train(steps_alone("whole", 12));
  signals::install();
  for (const int64_t at : {3, 7, 8, 13}) {
    const std::string out_dir = fmt::format("cut{}", at);
    micro_steps_ = 0;
    stop_at_ = at;
    test_point_hook = [](const char* name) {
      if (std::string_view(name) == "micro_step" && ++micro_steps_ == stop_at_) std::raise(SIGTERM);
    };
    Settings settings = steps_alone(out_dir, 12);
    const TrainingResult stopped = train(settings);
    test_point_hook = nullptr;
    signals::clear_stop();
    EXPECT_EQ(stopped.stopped_by, "signal");
    const auto step = stopped.summary["step"].get<int64_t>();
    EXPECT_EQ(metrics(out_dir).size(), static_cast<size_t>(step));
    EXPECT_EQ(read_train_state(join_path(out_dir, "latest")).step, step);
    EXPECT_LT(step, 12);
    set(settings, "resume", "auto");
    EXPECT_EQ(train(settings).stopped_by, "max_iters");
    for (const char* name : {"step", "loss", "grad_norm"})
      EXPECT_EQ(column(out_dir, name), column("whole", name)) << name << " stopped at " << at;
    expect_same_files(out_dir + "/step_00000012", "whole/step_00000012",
                      {"model.safetensors", "optimizer.safetensors"});
  }
}

TEST_F(DeviceStepsTest, Sigusr1SavesAStepWhoseResultIsKnown) {
  signals::install();
  micro_steps_ = 0;
  test_point_hook = [](const char* name) {
    if (std::string_view(name) == "micro_step" && ++micro_steps_ == 9) std::raise(SIGUSR1);
  };
  Settings settings = steps_alone("out", 12);
  set(settings, "keep", 0);
  train(settings);
  test_point_hook = nullptr;
  const std::string saved = "out/step_00000005";  // two micro-steps each
  ASSERT_EQ(verify_checkpoint(saved), "");
  EXPECT_EQ(read_train_state(saved).adam_t, 5);
  train(steps_alone("plain", 12));
  expect_same_files("out/step_00000012", "plain/step_00000012",
                    {"model.safetensors", "optimizer.safetensors"});
  set(settings, "resume", saved);
  train(settings);
  expect_same_files("out/step_00000012", "plain/step_00000012",
                    {"model.safetensors", "optimizer.safetensors"});
}

// Weights that grow without end, as HealthTest has them.
Settings growing_without_end(Settings settings) {
  for (const auto& [name, value] :
       std::vector<std::pair<const char*, Json>>{{"learning_rate", 0.39},
                                                 {"min_lr", 0.39},
                                                 {"weight_decay", 10},
                                                 {"warmup_iters", 0},
                                                 {"lr_schedule", "constant"},
                                                 {"save_interval", 5},
                                                 {"max_bad_steps", 3}})
    settings.set(name, value, "command line");
  return settings;
}

TEST_F(DeviceStepsTest, StepsThatAreNotFiniteChangeNothingAndEndTheRunWhereTheyShould) {
  const TrainingResult result = train(growing_without_end(steps_alone("out", 200)));
  ASSERT_EQ(result.code, ExitCode::diverged);
  const std::vector<Json> records = metrics("out");
  ASSERT_GT(records.size(), 4U);
  for (size_t i = 0; i < records.size(); ++i) {
    EXPECT_EQ(records[i]["step"], i + 1);
    EXPECT_EQ(records[i]["loss"].is_null() || records[i]["grad_norm"].is_null(),
              i + 3 >= records.size())
        << i;
  }
  EXPECT_EQ(result.summary["skipped"], 3);
  const auto step = static_cast<int64_t>(records.size());
  const TrainState saved = read_train_state("out/latest");
  EXPECT_EQ(saved.bad_steps, 0);
  EXPECT_EQ(saved.adam_t, saved.step);
  EXPECT_LE(saved.step, step - 3);
}

TEST_F(DeviceStepsTest, ARollbackLeavesWhatWasBegunBehind) {
  Settings settings = growing_without_end(steps_alone("out", 150));
  set(settings, "on_divergence", "rollback");
  set(settings, "keep", 0);
  set(settings, "keep_optimizer", 100);
  const TrainingResult result = train(settings);
  EXPECT_EQ(result.code, ExitCode::ok);
  const TrainState state = read_train_state("out/latest");
  EXPECT_EQ(state.rollbacks, 1);
  EXPECT_EQ(state.adam_t, 150);
  const auto lr = column("out", "lr");
  ASSERT_EQ(lr.size(), 150U) << "each step once";
  EXPECT_DOUBLE_EQ(lr.back(), 0.195);
  // Killed after it had saved what it goes back to, and resumed: it diverges, goes back and ends
  // the same.
  const auto back = static_cast<int64_t>(std::count(lr.begin(), lr.end(), 0.39));
  std::filesystem::copy(
      "out", "cut",
      std::filesystem::copy_options::recursive | std::filesystem::copy_options::copy_symlinks);
  for (const auto& name : list_directory("cut"))
    if (name.starts_with("step_") && std::stoll(name.substr(5)) > back)
      remove_tree(join_path("cut", name));
  set(settings, "out_dir", "cut");
  set(settings, "resume", "auto");
  EXPECT_EQ(train(settings).code, ExitCode::ok);
  expect_same_files("cut/latest", "out/latest", {"model.safetensors", "optimizer.safetensors"});
  EXPECT_EQ(column("cut", "lr"), lr);
}

// The limits of a step are those known two steps before, wherever the run was cut.
TEST_F(DeviceStepsTest, SpikesAreSkippedByLimitsThatLagAStepAndAreInTheCheckpoint) {
  const auto spiky = [&](const std::string& out_dir) {
    Settings settings = steps_alone(out_dir, 60);
    set(settings, "learning_rate", 1e-6);
    set(settings, "skip_spikes", 0.5);  // so low that steps are skipped
    return settings;
  };
  const TrainingResult whole = train(spiky("whole"));
  ASSERT_GT(whole.summary["skipped"], 2);
  Settings host = spiky("cpu");
  set(host, "device", "cpu");
  EXPECT_GT(train(host).summary["skipped"], 2);
  signals::install();
  for (const int64_t at : {61, 70}) {  // two micro-steps a step
    micro_steps_ = 0;
    stop_at_ = at;
    test_point_hook = [](const char* name) {
      if (std::string_view(name) == "micro_step" && ++micro_steps_ == stop_at_) std::raise(SIGTERM);
    };
    Settings settings = spiky(fmt::format("cut{}", at));
    EXPECT_EQ(train(settings).stopped_by, "signal");
    test_point_hook = nullptr;
    signals::clear_stop();
    set(settings, "resume", "auto");
    EXPECT_EQ(train(settings).summary["skipped"], whole.summary["skipped"]);
    expect_same_files(fmt::format("cut{}/step_00000060", at), "whole/step_00000060",
                      {"model.safetensors", "optimizer.safetensors"});
  }
}

TEST_F(DeviceStepsTest, ASpikeIsLeftOutAndALevelThatStaysIsBelieved) {
  Settings settings = steps_alone("out", 80);
  set(settings, "skip_spikes", 8);
  const auto run = set_up_run(settings);
  for (int i = 0; i < 40; ++i) ASSERT_FALSE(take_step(*run).skipped) << i;
  const at::Tensor good = fake_device::on_host(run->parameters->master());
  const at::Tensor bad = good.mul(8);
  run->parameters->master().copy_(bad);
  const StepOutcome outcome = take_step(*run);
  EXPECT_TRUE(outcome.skipped);
  EXPECT_TRUE(std::isfinite(outcome.loss));
  EXPECT_TRUE(fake_device::on_host(run->parameters->master()).equal(bad));
  EXPECT_EQ(run->state.adam_t, 40);
  EXPECT_EQ(run->state.bad_steps, 0);
  run->parameters->master().copy_(good);
  EXPECT_FALSE(take_step(*run).skipped);
  EXPECT_EQ(run->state.skipped, 1);
  run->parameters->master().copy_(bad);
  int skipped = 0;
  for (int i = 0; i < 10; ++i) skipped += take_step(*run).skipped;
  EXPECT_EQ(skipped, kMostSkippedInARow + 1) << "what is known lags by a step";
}

TEST_F(DeviceStepsTest, AnUpdateThatCannotBeCapturedOrReplayedRunsWithout) {
  std::vector<std::vector<double>> losses;
  for (const int64_t fails : {0, 1, 2, 3, 4}) {  // captures: of one shape or another, of the update
    device_.fail_capture(fails, 1);
    device_.fail_replay(fails, 1);
    const std::string out_dir = fmt::format("out{}", fails);
    train(steps_alone(out_dir, 12));
    losses.push_back(column(out_dir, "loss"));
    EXPECT_EQ(losses.back(), losses.front()) << fails;
  }
  device_.fail_capture(1, 1000);
  train(steps_alone("never", 12));
  EXPECT_EQ(column("never", "loss"), losses.front());
}

// Memory runs out while the step before is still worked on.
TEST_F(DeviceStepsTest, OutOfMemoryInAStepBegunEarlyTakesThatStepAgain) {
  const auto losses = [&](const std::string& out_dir, bool fails) {
    const auto run = set_up_run(steps_alone(out_dir));
    std::vector<double> got;
    for (int step = 0; step < 6; ++step) {
      if (step == 2 && fails) {
        EXPECT_TRUE(run->in_flight);
        run->engine->release_memory();
        device_.fail_allocation(1);
      }
      const StepOutcome outcome = take_step(*run, true);
      got.push_back(outcome.loss);
      got.push_back(outcome.grad_norm);
    }
    EXPECT_EQ(run->state.micro_rows, fails ? 3 : 6);
    return got;
  };
  expect_near(losses("fails", true), losses("plain", false), 1e-4);
}

}  // namespace
}  // namespace train_sft
