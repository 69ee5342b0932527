// Runs with --optimizer muon on a device.
#include <gmock/gmock.h>

#include "train/run_setup.h"
#include "train/step.h"
#include "train_sft/train/memory_plan.h"
#include "unit/train/device_run_fixture.h"

namespace train_sft {
namespace {

std::vector<at::Tensor> state_of_device(Run& run) {
  return {fake_device::on_host(run.parameters->master()),
          fake_device::on_host(run.parameters->compute()),
          fake_device::on_host(run.optimizer->exp_avg()),
          fake_device::on_host(run.optimizer->exp_avg_sq())};
}

class DeviceMuonTest : public DeviceRunTest {
 protected:
  Settings muon(const std::string& out_dir, const char* family = "gpt2",
                const char* precision = "fp32") {
    Settings settings = chat(out_dir);
    set(settings, "optimizer", "muon");
    set(settings, "family", family);  // gpt2: q, k and v in one parameter
    set(settings, "precision", precision);
    return settings;
  }
};

TEST_F(DeviceMuonTest, ItsLossesAreThoseOfTheCpu) {
  for (const char* family : {"gpt2", "llama"}) {
    for (const bool freezes : {false, true}) {
      const auto settings = [&](const char* where) {
        Settings settings = muon(fmt::format("{}_{}{}", where, family, freezes), family);
        if (freezes) set(settings, "freeze", Json::array({"*.0.*"}));
        return settings;
      };
      Settings host = settings("cpu");
      set(host, "device", "cpu");
      const std::string on_host = host.config.out_dir;
      train(host);
      const int64_t replays = device_.counts().replays;
      const Settings there = settings("device");
      EXPECT_EQ(train(there).code, ExitCode::ok);
      EXPECT_GT(device_.counts().replays, replays + 10);
      for (const char* name : {"loss", "grad_norm", "val_loss"})
        expect_near(column(there.config.out_dir, name), column(on_host, name), 1e-5);
      const std::vector<double> losses = column(on_host, "loss");
      EXPECT_LT(losses.back(), losses.front());
    }
  }
}

TEST_F(DeviceMuonTest, InSteadyStateTheDeviceNeverWaitsForTheHost) {
  expect_no_waits_in_steady_state(muon("out", "llama", "bf16"));
}

// The first update, whose scratch nobody has written, one that is captured and one that is
// replayed.
TEST_F(DeviceMuonTest, AStepThatIsSkippedChangesNothing) {
  const auto run = set_up_run(muon("out", "gpt2", "bf16"));
  for (int step = 0; step < 8; ++step) {
    const bool bad = step == 0 || step == 2 || step == 5;
    if (bad) run->state.step_limits = {{.loss = 0}};
    const std::vector<at::Tensor> before = state_of_device(*run);
    const StepOutcome outcome = take_step(*run);
    const std::vector<at::Tensor> after = state_of_device(*run);
    EXPECT_EQ(outcome.skipped, bad) << step;
    for (size_t i = 0; i < before.size(); ++i) {
      EXPECT_EQ(before[i].equal(after[i]), bad) << "tensor " << i << " in step " << step;
      EXPECT_TRUE(after[i].isfinite().all().item<bool>()) << "tensor " << i << " in step " << step;
    }
    run->state.step_limits.clear();
  }
  EXPECT_EQ(run->optimizer->t, 5);
}

TEST_F(DeviceMuonTest, AResumeIsBitForBitTheUncutRun) {
  const ops::DeviceOverride with_fp8({.device = fake_device::kDevice, .said = "", .fp8 = true});
  for (const char* precision : {"fp32", "bf16", "fp8"}) {
    expect_resume_bit_for_bit([&](const std::string& out_dir) {
      Settings settings = muon(out_dir, "gpt2", precision);
      if (precision == std::string("fp8")) set(settings, "n_layer", 4);
      return settings;
    });
    remove_tree("whole");
    remove_tree("cut");
  }
}

// From the CPU to the device and back: the moments that there are have one place in a checkpoint.
TEST_F(DeviceMuonTest, ARunMovesBetweenTheCpuAndTheDevice) {
  Settings host = muon("moved");
  set(host, "device", "cpu");
  train(host);
  Settings on_device = muon("moved");
  set(on_device, "resume", "moved/step_00000006");
  const std::vector<double> uncut = column("moved", "loss");
  train(on_device);
  expect_near(column("moved", "loss"), uncut, 1e-5);
}

TEST_F(DeviceMuonTest, InBFloat16ItLearnsAsInFloat) {
  std::vector<std::vector<double>> losses;
  for (const char* precision : {"fp32", "bf16"}) {
    train(muon(precision, "llama", precision));
    losses.push_back(column(precision, "loss"));
  }
  expect_near(losses[1], losses[0], 1e-3);
}

TEST_F(DeviceMuonTest, WhatItKeepsIsPlanned) {
  ModelConfig model;
  model.n_layer = 2;
  model.n_head = 2;
  model.n_embd = 128;
  model.vocab_size = 300;
  model.block_size = 64;
  for (const Family family : {Family::gpt2, Family::llama}) {
    for (const char* precision : {"fp32", "bf16"}) {
      model.family = family;
      const auto compute = precision == std::string("fp32") ? at::kFloat : at::kBFloat16;
      int64_t took[2] = {}, planned[2] = {};
      for (const bool muon : {false, true}) {
        TrainConfig config;
        config.optimizer = muon ? "muon" : "adamw";
        const MemoryPlan plan = plan_memory(model, config, precision, 1, 64, {.is_device = true});
        planned[muon] = static_cast<int64_t>(plan.optimizer + plan.workspace);
        Parameters parameters(model, at::kFloat, compute, true, {}, fake_device::kDevice);
        const int64_t before = device_.counts().bytes;
        const Optimizer optimizer(parameters, optimizer_options(config));
        took[muon] = device_.counts().bytes - before;
      }
      constexpr int64_t kPages = 4 * 4096;  // three tensors and one more take whole ones
      EXPECT_NEAR(took[1] - took[0], planned[1] - planned[0], kPages) << precision;
      EXPECT_LT(took[1], took[0] - 10 * kPages) << "a moment less, for the room of one matrix";
    }
  }
}

}  // namespace
}  // namespace train_sft
