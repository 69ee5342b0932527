// Whole runs on a device, through the seam of the GPU (support/fake_device.h).
#include <gmock/gmock.h>

#include "train/evaluate.h"
#include "train/run_setup.h"
#include "train/step.h"
#include "unit/train/device_run_fixture.h"

namespace train_sft {
namespace {

TEST_F(DeviceRunTest, ItsLossesAreThoseOfTheCpu) {
  train(on_cpu("cpu"));
  EXPECT_EQ(device_.counts().calls, 0);
  EXPECT_EQ(train(chat("device")).code, ExitCode::ok);
  EXPECT_GT(device_.counts().replays, 10);
  for (const char* name : {"loss", "grad_norm", "val_loss"})
    expect_near(column("device", name), column("cpu", name), 1e-4);
  EXPECT_EQ(verify_checkpoint("device/latest"), "");
}

TEST_F(DeviceRunTest, AResumeOnTheDeviceIsBitForBitTheUncutRun) {
  expect_resume_bit_for_bit([&](const std::string& out_dir) { return chat(out_dir); });
}

TEST_F(DeviceRunTest, EightBitScalesAreInTheCheckpoint) {
  const auto eight_bits = [&](const std::string& out_dir) {
    Settings settings = chat(out_dir);
    set(settings, "precision", "fp8");
    set(settings, "n_layer", 4);
    return settings;
  };
  EXPECT_THAT(message_of<UsageError>(eight_bits("out")), ::testing::HasSubstr("8-bit products"));
  const ops::DeviceOverride with_fp8({.device = fake_device::kDevice, .said = "", .fp8 = true});
  expect_resume_bit_for_bit(eight_bits);
}

// The n-th allocation of the third step fails, in the middle of a micro-batch or before: the step
// is taken again in smaller pieces, with the losses of the run to which nothing happened.
TEST_F(DeviceRunTest, OutOfMemoryTakesTheWholeStepAgainInSmallerPieces) {
  const auto losses = [&](const std::string& out_dir, int64_t fails, int64_t times,
                          int64_t& micro_rows) {
    const auto run = set_up_run(chat(out_dir));
    std::vector<double> got;
    for (int step = 0; step < 5; ++step) {
      if (step == 2 && fails > 0) {
        run->engine->release_memory();
        device_.fail_allocation(fails, times);
      }
      const StepOutcome outcome = take_step(*run);
      got.push_back(outcome.loss);
      got.push_back(outcome.grad_norm);
    }
    device_.fail_allocation(0);
    micro_rows = run->state.micro_rows;
    return got;
  };
  int64_t micro_rows = 0;
  const std::vector<double> expected = losses("plain", 0, 0, micro_rows);
  EXPECT_EQ(micro_rows, 6);
  int restarted = 0;
  for (int64_t n = 1; n <= 3; ++n) {
    expect_near(losses(fmt::format("out{}", n), n, 1, micro_rows), expected, 1e-4);
    restarted += micro_rows == 3;
  }
  EXPECT_GE(restarted, 1);
  expect_near(losses("twice", 1, 2, micro_rows), expected, 1e-4);
  EXPECT_EQ(micro_rows, 2);
  EXPECT_THROW(losses("never", 1, 1000, micro_rows), ResourceError);
}

TEST_F(DeviceRunTest, EvaluationGoesOnInSmallerPiecesToo) {
  const auto run = set_up_run(chat("out"));
  const double expected = *evaluate(*run)->val_loss;
  run->engine->release_memory();
  device_.fail_allocation(1);
  EXPECT_NEAR(*evaluate(*run)->val_loss / expected, 1, 1e-5);
}

TEST_F(DeviceRunTest, AModelThatDoesNotFitIsSaidSo) {
  for (int64_t n = 1; n <= 4; ++n) {  // weights, gradients, both moments
    device_.fail_allocation(n, 1000);
    EXPECT_THAT(message_of<ResourceError>(chat("out")),
                ::testing::HasSubstr("no memory for the model"));
    remove_tree("out");
  }
  device_.fail_allocation(0);
}

TEST_F(DeviceRunTest, WhatADeviceCannotDoYetIsRefused) {
  Settings settings = chat("out");
  set(settings, "optimizer", "muon");
  EXPECT_THAT(message_of<UsageError>(settings), ::testing::HasSubstr("optimizer muon"));
}

}  // namespace
}  // namespace train_sft
