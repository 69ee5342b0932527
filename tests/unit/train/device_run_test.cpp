// Whole runs on a device, through the seam of the GPU (support/fake_device.h).
#include <gmock/gmock.h>

#include <set>

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

TEST_F(DeviceRunTest, EightBitSettingsReachTheEngineAndHoldForARun) {
  const ops::DeviceOverride with_fp8({.device = fake_device::kDevice, .said = "", .fp8 = true});
  const auto eight_bits = [&](const std::string& out_dir,
                              const std::vector<std::pair<const char*, Json>>& more) {
    Settings settings = chat(out_dir);
    set(settings, "precision", "fp8");
    set(settings, "n_layer", 4);
    set(settings, "eval_interval", -1);
    for (const auto& [name, value] : more) set(settings, name, value);
    return settings;
  };
  const auto history_of = [&](const std::vector<std::pair<const char*, Json>>& more) {
    remove_tree("sizes");
    return set_up_run(eight_bits("sizes", more))->engine->fp8_state().front().second.sizes().vec();
  };
  using Sizes = std::vector<int64_t>;  // two tensors a linear layer, four of those a block
  EXPECT_EQ(history_of({}), (Sizes{2 * 4 * 2, 16}));
  EXPECT_EQ(history_of({{"fp8_history", 5}}), (Sizes{2 * 4 * 2, 5}));
  EXPECT_EQ(history_of({{"fp8_scaling", "current"}}), (Sizes{2 * 4 * 2, 1}));
  EXPECT_EQ(history_of({{"fp8_bf16", "none"}}), (Sizes{2 * 4 * 4, 16}));
  EXPECT_EQ(history_of({{"fp8_bf16", "last,1"}}), (Sizes{2 * 4 * 2, 16}));
  EXPECT_EQ(history_of({{"fp8_bf16", {"proj", "qkv"}}}), (Sizes{2 * 2 * 4, 16}));
  EXPECT_THAT(message_of<UsageError>(eight_bits("out", {{"fp8_bf16", "4"}})),
              ::testing::HasSubstr("there is no block 4; the model has 4"));

  // Each is another run, near the usual one.
  remove_tree("out");
  train(eight_bits("usual", {}));
  const std::vector<double> usual = column("usual", "loss");
  std::set<std::vector<double>> kinds = {usual};
  const std::vector<std::pair<const char*, Json>> settings = {{"fp8_gradients", "e4m3"},
                                                              {"fp8_scaling", "current"},
                                                              {"fp8_history", 2},
                                                              {"fp8_margin", 2.5},
                                                              {"fp8_weight_gradient", true},
                                                              {"fp8_bf16", Json::array({"none"})}};
  for (const auto& [name, value] : settings) {
    const std::string out_dir = std::string("with_") + name;
    train(eight_bits(out_dir, {{name, value}}));
    const std::vector<double> losses = column(out_dir, "loss");
    expect_near(losses, usual, 0.05);
    EXPECT_TRUE(kinds.insert(losses).second) << name << " changes nothing";
    // It is in the checkpoint, goes on without being said, and no other does.
    EXPECT_EQ(read_train_state(out_dir + "/latest").settings[name], value) << name;
    Settings again = eight_bits(out_dir, {});
    set(again, "resume", out_dir + "/step_00000006");
    train(again);
    EXPECT_EQ(column(out_dir, "loss"), losses) << name;
    set(again, name, find_option(name)->get(TrainConfig{}));
    EXPECT_THAT(message_of<UsageError>(again),
                ::testing::AllOf(::testing::HasSubstr(name), ::testing::HasSubstr("8-bit scales")));
  }
}

// The largest magnitudes of weights come with their update, which changes no bit.
TEST_F(DeviceRunTest, EightBitWeightsAreRoundedOnceAStepByWhatTheirUpdateFound) {
  const ops::DeviceOverride with_fp8({.device = fake_device::kDevice, .said = "", .fp8 = true});
  const auto settings = [&](const std::string& out_dir) {
    Settings settings = chat(out_dir);
    set(settings, "precision", "fp8");
    set(settings, "n_layer", 4);
    return settings;
  };
  const auto fused = set_up_run(settings("fused")), apart = set_up_run(settings("apart"));
  for (int step = 0; step < 8; ++step) {
    const bool bad = step == 5;  // an update that is skipped
    if (bad) fused->state.step_limits = apart->state.step_limits = {{.loss = 0}};
    const StepOutcome a = take_step(*fused), b = take_step(*apart);
    EXPECT_EQ(a.skipped, bad);
    EXPECT_EQ(a.loss, b.loss) << step;
    EXPECT_EQ(a.grad_norm, b.grad_norm) << step;
    const std::vector<WeightAmax> weights = fused->engine->weight_amax();
    ASSERT_EQ(weights.size(), 8U);
    const at::Tensor compute = fake_device::on_host(fused->parameters->compute());
    for (const WeightAmax& weight : weights) {
      const at::Tensor values = compute.narrow(0, weight.offset, weight.numel).to(at::kFloat);
      EXPECT_EQ(fake_device::on_host(weight.amax).item<float>(),
                bad ? 0 : values.abs().max().item<float>());
    }
    apart->engine->restored_fp8();  // forgets: a pass over the weights finds them again
    fused->state.step_limits.clear();
    apart->state.step_limits.clear();
  }
  EXPECT_TRUE(fake_device::on_host(fused->parameters->master())
                  .equal(fake_device::on_host(apart->parameters->master())));
}

TEST_F(DeviceRunTest, ACheckpointWithOtherEightBitScalesIsRefused) {
  const ops::DeviceOverride with_fp8({.device = fake_device::kDevice, .said = "", .fp8 = true});
  Settings settings = chat("out");
  set(settings, "n_layer", 4);
  train(settings);
  set(settings, "precision", "fp8");
  remove_tree("fp8");
  set(settings, "out_dir", "fp8");
  train(settings);
  const auto refusal = [&](const char* directory, const char* name, const Json& value) {
    Settings other = settings;
    set(other, "out_dir", fmt::format("run_{}", name));
    set(other, name, value);
    const auto run = set_up_run(other);
    try {
      load_fp8_state(directory, *run->engine);
    } catch (const CheckpointError& error) {
      return std::string(error.what());
    }
    return std::string("was accepted");
  };
  EXPECT_THAT(refusal("out/step_00000012", "fp8_margin", 0),
              ::testing::HasSubstr("'fp8/history' is missing"));
  EXPECT_THAT(refusal("fp8/step_00000012", "fp8_history", 4), ::testing::HasSubstr("fp8/history"));
  EXPECT_THAT(refusal("fp8/step_00000012", "fp8_bf16", "none"),
              ::testing::HasSubstr("fp8/history"));
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

// The chunks of the loss are as large as the plan of the memory says, and go on as they were.
TEST_F(DeviceRunTest, TheLossHasAShareOfTheDevicesMemory) {
  device_.limit_bytes(int64_t{4} << 30);
  train(chat("run"));
  const int64_t scratch = read_train_state("run/latest").loss_scratch;
  EXPECT_NEAR(static_cast<double>(scratch), 0.9 * 0x1p32 / 16, 0x1p20);  // max_memory 90 %
  device_.limit_bytes(int64_t{8} << 30);                                 // more is free by now
  Settings settings = chat("run");
  set(settings, "resume", "run/step_00000006");
  EXPECT_EQ(set_up_run(settings)->state.loss_scratch, scratch);
  EXPECT_GT(set_up_run(chat("new"))->state.loss_scratch, scratch);

  ModelConfig model;
  model.n_layer = model.n_head = 1;
  model.n_embd = 16;
  model.vocab_size = 8000;
  model.block_size = 64;
  for (const int64_t bytes : {int64_t{4} << 20, int64_t{40} << 20}) {
    Parameters parameters(model, at::kFloat, at::kFloat, true, {}, fake_device::kDevice);
    EngineOptions options;
    options.max_tokens = 2048;
    options.loss_scratch = bytes;
    const uint64_t planned =
        Engine::planned_arena_bytes(model, at::kFloat, false, Recompute::none, 2048, {}, bytes);
    EXPECT_EQ(Engine(parameters, options).arena_bytes(), planned);
    EXPECT_GT(planned, static_cast<uint64_t>(bytes) * 9 / 10);
    EXPECT_LT(planned, static_cast<uint64_t>(bytes) * 2);
  }
}

}  // namespace
}  // namespace train_sft
