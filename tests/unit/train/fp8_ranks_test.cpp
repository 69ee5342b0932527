// 8-bit scales in a run of several processes, on a fake collective: what is remembered of a step is
// the largest over all ranks, brought together by one call in its place.
#include <gmock/gmock.h>

#include <cmath>
#include <limits>

#include "support/fake_collective.h"
#include "train/gradient_reduction.h"
#include "train/run_setup.h"
#include "train/step.h"
#include "train/step_calls.h"
#include "unit/train/device_run_fixture.h"

namespace train_sft {
namespace {

using ::testing::Each;
using ::testing::Gt;

c10d::Backend* no_transport(const c10::intrusive_ptr<c10d::Store>&, int, int, int64_t) {
  return nullptr;
}

// Two processes on devices of their own, the other with the same data unless a test says otherwise.
class Fp8RanksTest : public DeviceRunTest {
 protected:
  using Values = std::vector<std::pair<const char*, Json>>;
  // What the other rank makes of this rank's largest magnitudes.
  using Others = std::function<void(float* amax, int64_t count)>;

  Fp8RanksTest()
      : with_fp8_(
            {.device = fake_device::kDevice, .said = "", .fp8 = true, .connect = &no_transport}) {}

  Settings eight_bits(const Values& more = {}) {
    Settings settings = chat("out");
    set(settings, "precision", "fp8");
    set(settings, "n_layer", 4);  // of which two have four 8-bit layers each
    for (const auto& [name, value] : more) set(settings, name, value);
    return settings;
  }

  static void be_two(FakeCollective& fake, const Others& others = {}) {
    fake.together = [others](const std::string& name, const at::Tensor& values) {
      if (name == "joining the GPUs") {
        values.fill_(1 + 2);
        return true;
      }
      if (name != GradientReduction::kAmaxName || !others) return false;
      others(values.mutable_data_ptr<float>(), values.numel());
      return true;
    };
    fake.answer = [](int, const std::string& name, const std::string& mine) {
      std::string other = mine;
      if (name == "the GPUs" && mine.size() > sizeof(uint64_t)) other.back() = 'x';
      return other;
    };
  }

  struct Scales {
    at::Tensor history, scale;  // on the host
  };
  // After one step.
  Scales scales(const Settings& settings, const Others& others) {
    remove_tree("out");
    FakeCollective fake(2);
    be_two(fake, others);
    const auto run = set_up_run(settings, fake);
    take_step(*run);
    const auto state = run->engine->fp8_state();
    return {fake_device::on_host(state.at(0).second), fake_device::on_host(state.at(1).second)};
  }

 private:
  ops::DeviceOverride with_fp8_;
};

std::vector<float> newest(const at::Tensor& history) {
  const at::Tensor column = history.select(1, history.size(1) - 1).contiguous();
  return {column.const_data_ptr<float>(), column.const_data_ptr<float>() + column.numel()};
}

std::vector<float> values_of(const at::Tensor& flat) {
  return {flat.const_data_ptr<float>(), flat.const_data_ptr<float>() + flat.numel()};
}

TEST_F(Fp8RanksTest, TheLargestGoOnceAStepBehindTheGradientsAsPlanned) {
  for (const char* shard : {"none", "optimizer"}) {
    remove_tree("out");
    FakeCollective fake(2);
    be_two(fake);
    const auto run = set_up_run(eight_bits({{"shard", shard}, {"grad_accum", 3}}), fake);
    const int64_t amax = amax_count(run->config().model, run->config(), run->state.precision);
    EXPECT_EQ(amax, 2 * 8);
    std::vector<FakeCollective::Call> planned;
    for (const StepCall& call : step_calls(
             run->parameters->layout(), shard == std::string("optimizer"), true, at::kFloat, amax))
      planned.push_back({call.call, call.name, call.bytes});
    EXPECT_EQ(planned.at(1), (FakeCollective::Call{"all_reduce_max", "8-bit scales", 64}));
    for (int step = 0; step < 3; ++step) {
      fake.calls.clear();
      take_step(*run);
      EXPECT_EQ(fake.calls, planned) << shard << ", step " << step;
    }
  }
}

TEST_F(Fp8RanksTest, ScalesAreThoseOfTheLargestOfAllRanks) {
  for (const char* shard : {"none", "optimizer"}) {
    const Settings settings = eight_bits({{"shard", shard}});
    const Scales alone = scales(settings, {});
    const Scales larger = scales(settings, [](float* amax, int64_t count) {
      for (int64_t i = 0; i < count; ++i) amax[i] *= 8;
    });
    EXPECT_THAT(newest(alone.history), Each(Gt(0.0F)));
    EXPECT_EQ(newest(larger.history), newest(alone.history.mul(8)));
    EXPECT_EQ(values_of(larger.scale), values_of(alone.scale.div(8)));
  }
}

// Whatever the other rank has met that is no number says nothing about the next step, here neither.
TEST_F(Fp8RanksTest, WhatIsNotFiniteOnOneRankIsRememberedByNone) {
  for (const float bad : {std::numeric_limits<float>::infinity(), std::nanf("")}) {
    const Scales got = scales(eight_bits(), [bad](float* amax, int64_t) { amax[3] = bad; });
    EXPECT_EQ(newest(got.history).at(3), 0);
    EXPECT_EQ(values_of(got.scale).at(3), 1);
    EXPECT_GT(newest(got.history).at(2), 0);
  }
}

TEST_F(Fp8RanksTest, CurrentScalingSendsNothingAndLeavesNothing) {
  FakeCollective fake(2);
  be_two(fake);
  const auto run = set_up_run(eight_bits({{"fp8_scaling", "current"}}), fake);
  EXPECT_EQ(amax_count(run->config().model, run->config(), run->state.precision), 0);
  fake.calls.clear();
  for (int step = 0; step < 2; ++step) take_step(*run);
  EXPECT_EQ(fake.named(GradientReduction::kAmaxName).size(), 0U);
  EXPECT_EQ(fake.calls.size(), 2U * 2U);
  const auto state = run->engine->fp8_state();
  EXPECT_THAT(values_of(fake_device::on_host(state.at(0).second)), Each(0.0F));
  EXPECT_THAT(values_of(fake_device::on_host(state.at(1).second)), Each(1.0F));
}

}  // namespace
}  // namespace train_sft
