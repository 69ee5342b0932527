// Runs on a device, through the seam of the GPU (support/fake_device.h).
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "support/fake_device.h"
#include "train/run_setup.h"
#include "train/step.h"
#include "train_sft/ops/load_device.h"
#include "unit/train/training_fixture.h"

namespace train_sft {

class DeviceRunTest : public TrainingTest {
 protected:
  DeviceRunTest()
      : chosen_({.device = fake_device::kDevice, .said = "computing on a fake device"}) {
    write_conversations("chat.jsonl", 120);
  }

  Settings chat(const std::string& out_dir) {
    Settings settings = tiny();
    for (const auto& [name, value] :
         std::vector<std::pair<const char*, Json>>{{"data", {"chat.jsonl"}},
                                                   {"block_size", 64},
                                                   {"batch_size", 6},
                                                   {"grad_accum", 2},
                                                   {"n_layer", 2},
                                                   {"dropout", 0.1},
                                                   {"precision", "fp32"},
                                                   {"save_interval", 6},
                                                   {"keep_optimizer", 9},
                                                   {"sample_interval", 6},
                                                   {"learning_rate", 1e-3},
                                                   {"out_dir", out_dir}})
      set(settings, name, value);
    return settings;
  }
  Settings on_cpu(const std::string& out_dir) {
    Settings settings = chat(out_dir);
    set(settings, "device", "cpu");
    return settings;
  }
  // Nothing but steps: no evaluation, sample or checkpoint before the last.
  static Settings steps_alone(Settings settings, int64_t steps = 40) {
    set(settings, "max_iters", steps);
    set(settings, "eval_interval", -1);
    set(settings, "sample_interval", 0);
    set(settings, "save_interval", 1000);
    return settings;
  }
  // Returns the run after 18 steps, one in flight.
  std::unique_ptr<train_sft::Run> expect_no_waits_in_steady_state(const Settings& given) {
    write_text("data.txt", 2000);  // full rows: micro-batches of one shape
    Settings settings = steps_alone(given);
    set(settings, "data", {"data.txt"});
    set(settings, "block_size", 16);
    set(settings, "grad_accum", 1);
    auto run = set_up_run(settings);
    for (int i = 0; i < 6; ++i) take_step(*run, true);  // every shape is seen, and its graph made
    const fake_device::Counts before = device_.counts();
    constexpr int64_t kSteps = 12;
    for (int64_t i = 0; i < kSteps; ++i) EXPECT_FALSE(take_step(*run, true).skipped);
    const fake_device::Counts after = device_.counts();
    EXPECT_EQ(after.waits - before.waits, 0);
    EXPECT_EQ(after.waits_behind - before.waits_behind, kSteps) << "of the step before";
    EXPECT_EQ(after.allocations - before.allocations, 0);
    EXPECT_EQ(after.captures - before.captures, 0);
    EXPECT_EQ(after.replays - before.replays, 2 * kSteps)
        << "a micro-step's graph and the update's";
    EXPECT_EQ(after.uploads - before.uploads, 2 * kSteps) << "a micro-batch's, and the rate";
    return run;
  }
  // settings_of: of a run into a directory.
  void expect_resume_bit_for_bit(const std::function<Settings(const std::string&)>& settings_of) {
    train(settings_of("whole"));
    train(settings_of("cut"));
    Settings settings = settings_of("cut");
    set(settings, "resume", "cut/step_00000006");
    train(settings);
    expect_same_files("cut/step_00000012", "whole/step_00000012",
                      {"model.safetensors", "optimizer.safetensors"});
  }

  fake_device::Device device_;
  ops::DeviceOverride chosen_;
};

inline void expect_near(const std::vector<double>& got, const std::vector<double>& expected,
                        double tolerance) {
  ASSERT_EQ(got.size(), expected.size());
  for (size_t i = 0; i < got.size(); ++i)
    EXPECT_NEAR(got[i] / expected[i], 1, tolerance) << "place " << i;
}

}  // namespace train_sft
