// The engine on a device against the engine on the CPU, through the seam that the GPU uses
// (support/fake_device.h): what is padded, queued, captured and replayed gives the same numbers.
#include <gtest/gtest.h>

#include "golden/samples.h"
#include "model/padding.h"
#include "support/fake_device.h"
#include "train_sft/base/error.h"
#include "train_sft/model/engine.h"
#include "train_sft/ops/device_state.h"

namespace train_sft {
namespace {

using fake_device::kDevice;
using fake_device::on_host;

double relative_error(const at::Tensor& got, const at::Tensor& expected) {
  return got.sub(expected).norm().item<double>() / expected.norm().item<double>();
}

// Long enough for several sizes; documents up to the block size, and of one token.
Batch rows_of(const ModelConfig& config, int documents, int learned_of_ten, uint64_t seed) {
  samples::BatchOptions options;
  const int lengths[] = {24, 3, 11, 1, 24, 19, 7, 2};
  options.lengths.clear();
  for (int d = 0; d < documents; ++d) options.lengths.push_back(lengths[d % 8]);
  options.learned_of_ten = learned_of_ten;
  options.weights = seed % 2 == 1;
  options.seed = seed;
  return samples::batch(config, options);
}

Training lora() {
  Training training;
  training.lora_rank = 4;
  training.lora_alpha = 8;
  return training;
}

class PaddingTest : public testing::TestWithParam<samples::NamedConfig> {};

TEST_P(PaddingTest, APaddedBatchHasTheLossAndTheGradientsOfTheBatch) {
  const ModelConfig& config = GetParam().config;
  for (const double dropout : {0.0, 0.3}) {
    for (const int learned : {4, 10}) {
      Parameters parameters(config, at::kDouble, at::kDouble);
      samples::randomise(parameters, 4);
      EngineOptions options;
      options.dropout = dropout;
      Engine engine(parameters, options);
      const Batch batch = rows_of(config, 11, learned, 3);
      Batch padded;
      pad(batch, padded_shape(batch, config.block_size, 0), padded);
      ASSERT_GT(padded.size(), batch.size());
      const LossSums expected = engine.forward_backward(batch, 5);
      const at::Tensor gradients = parameters.gradients().clone();
      parameters.zero_gradients();
      const LossSums sums = engine.forward_backward(padded, 5);
      EXPECT_NEAR(sums.loss / expected.loss, 1, 1e-12);
      EXPECT_EQ(sums.weight, expected.weight);
      EXPECT_EQ(sums.tokens, expected.tokens);
      EXPECT_EQ(sums.correct, expected.correct);
      EXPECT_LE(relative_error(parameters.gradients(), gradients), 1e-12)
          << "dropout " << dropout << ", " << learned << " of ten learned";
      EXPECT_NEAR(engine.evaluate(padded).loss / engine.evaluate(batch).loss, 1, 1e-12);
    }
  }
}

// Whatever stands in the padding changes nothing: it is not seen and weighs nothing.
TEST_P(PaddingTest, WhatStandsInThePaddingDoesNotMatter) {
  const ModelConfig& config = GetParam().config;
  Parameters parameters(config, at::kDouble, at::kDouble);
  samples::randomise(parameters, 4);
  Engine engine(parameters, {});
  const Batch batch = rows_of(config, 11, 6, 3);
  Batch padded;
  pad(batch, padded_shape(batch, config.block_size, 0), padded);
  const LossSums expected = engine.forward_backward(padded, 5);
  const at::Tensor gradients = parameters.gradients().clone();
  for (auto n = static_cast<size_t>(batch.size()); n < padded.tokens.size(); ++n) {
    padded.tokens[n] = static_cast<int32_t>(n) % 60;
    padded.targets[n] = static_cast<int32_t>(7 * n) % 60;
  }
  parameters.zero_gradients();
  EXPECT_EQ(engine.forward_backward(padded, 5).loss, expected.loss);
  EXPECT_LE(relative_error(parameters.gradients(), gradients), 1e-15);
}

class DeviceEngineTest : public testing::TestWithParam<samples::NamedConfig> {};

struct Both {
  Both(const ModelConfig& config, at::ScalarType dtype, at::ScalarType compute,
       const EngineOptions& options, const Training& training = {})
      : host(config, dtype, compute, true, training),
        device(config, dtype, compute, true, training, kDevice) {
    initialise(host, 3);
    samples::randomise(host, 4);
    device.copy_from(host);
    on_cpu = std::make_unique<Engine>(host, options);
    on_device = std::make_unique<Engine>(device, options);
  }
  LossSums device_sums() const {
    const at::Tensor sums = on_host(on_device->device_sums());
    const auto& s = *static_cast<const ops::DeviceSums*>(sums.const_data_ptr());
    return {s.loss, s.weight, static_cast<int64_t>(s.tokens), static_cast<int64_t>(s.correct)};
  }
  Parameters host, device;
  std::unique_ptr<Engine> on_cpu, on_device;
};

void expect_same_step(Both& both, double tolerance, const std::string& what) {
  const LossSums sums = both.device_sums();
  EXPECT_GT(sums.loss, 0) << what;
  const double error = relative_error(on_host(both.device.gradients()), both.host.gradients());
  EXPECT_LE(error, tolerance) << what;
}

TEST_P(DeviceEngineTest, LossesAndGradientsAreThoseOfTheCpu) {
  fake_device::Device device;
  for (const auto& [dropout, recompute] :
       {std::pair(0.0, Recompute::none), std::pair(0.2, Recompute::block)}) {
    for (const int learned : {5, 10}) {
      EngineOptions options;
      options.dropout = dropout;
      options.recompute = recompute;
      Both both(GetParam().config, at::kDouble, at::kDouble, options);
      LossSums expected;
      for (uint64_t step = 0; step < 6; ++step) {  // sizes come again: run, captured, replayed
        const Batch batch = rows_of(GetParam().config, step % 2 == 0 ? 11 : 20, learned, step);
        const LossSums sums = both.on_cpu->forward_backward(batch, step);
        const LossSums known = both.on_device->forward_backward(batch, step);
        EXPECT_EQ(known.weight, sums.weight);
        EXPECT_EQ(known.tokens, sums.tokens);
        expected.loss += sums.loss;
        expected.weight += sums.weight;
        expected.tokens += sums.tokens;
        expected.correct += sums.correct;
      }
      EXPECT_GE(device.counts().replays, 2);
      const LossSums sums = both.device_sums();
      EXPECT_NEAR(sums.loss / expected.loss, 1, 1e-12);
      EXPECT_NEAR(sums.weight / expected.weight, 1, 1e-12);
      EXPECT_EQ(sums.tokens, expected.tokens);
      EXPECT_EQ(sums.correct, expected.correct);
      expect_same_step(both, 1e-12, fmt::format("dropout {}, learned {}", dropout, learned));
      const Batch batch = rows_of(GetParam().config, 9, learned, 77);
      EXPECT_NEAR(both.on_device->evaluate(batch).loss / both.on_cpu->evaluate(batch).loss, 1,
                  1e-12);
      EXPECT_LE(relative_error(on_host(both.on_device->logits(batch)), both.on_cpu->logits(batch)),
                1e-12);
    }
  }
}

TEST_P(DeviceEngineTest, AdaptersAndBFloat16Too) {
  fake_device::Device device;
  const std::tuple<at::ScalarType, at::ScalarType, Training, double> kinds[] = {
      {at::kDouble, at::kDouble, lora(), 1e-12},
      {at::kFloat, at::kFloat, lora(), 1e-5},
      {at::kFloat, at::kBFloat16, {}, 0.02}};
  for (const auto& [dtype, compute, training, tolerance] : kinds) {
    Both both(GetParam().config, dtype, compute, {}, training);
    for (uint64_t step = 0; step < 3; ++step) {
      const Batch batch = rows_of(GetParam().config, 11, 5, step);
      both.on_cpu->forward_backward(batch, step);
      both.on_device->forward_backward(batch, step);
    }
    expect_same_step(both, tolerance, c10::toString(compute));
  }
}

// Of a size that is not padded: what stands in padding has a part in the scales.
TEST(DeviceEngine, EightBitProductsToo) {
  fake_device::Device device;
  ModelConfig config = samples::configs()[2].config;
  config.n_layer = 4;
  config.ffn_hidden = 96;
  for (const bool weight_gradient : {false, true}) {
    EngineOptions options;
    options.fp8 = {.on = true, .weight_gradient = weight_gradient};
    Both both(config, at::kFloat, at::kFloat, options);
    Both exact(config, at::kFloat, at::kFloat, {});
    for (uint64_t step = 0; step < 4; ++step) {
      samples::BatchOptions rows;
      rows.lengths.assign(8, 16);
      rows.learned_of_ten = 10;
      rows.seed = step;
      const Batch batch = samples::batch(config, rows);
      for (Engine* engine : {both.on_cpu.get(), both.on_device.get(), exact.on_cpu.get()}) {
        engine->forward_backward(batch, step);
        engine->end_step();
      }
    }
    EXPECT_GE(device.counts().replays, 2);
    expect_same_step(both, 1e-3, "8 bits");
    // And it is 8 bits: near the exact gradients, not at them.
    const double error = relative_error(both.host.gradients(), exact.host.gradients());
    EXPECT_GT(error, 0.005);
    EXPECT_LT(error, 0.2);
  }
}

TEST_P(DeviceEngineTest, AGraphHasTheBitsOfTheSameWorkWithoutOne) {
  fake_device::Device device;
  EngineOptions options;
  options.dropout = 0.1;
  at::Tensor gradients[2];
  for (const bool graphs : {false, true}) {
    options.graphs = graphs;
    Both both(GetParam().config, at::kFloat, at::kBFloat16, options);
    const int64_t replays = device.counts().replays;
    for (uint64_t step = 0; step < 5; ++step)
      both.on_device->forward_backward(rows_of(GetParam().config, 11, 5, step), step);
    EXPECT_EQ(device.counts().replays - replays, graphs ? 4 : 0);
    gradients[graphs] = on_host(both.device.gradients());
  }
  EXPECT_TRUE(gradients[0].equal(gradients[1]));
}

TEST(DeviceEngine, AStepWaitsForNothingAndAllocatesNothing) {
  fake_device::Device device;
  EngineOptions options;
  options.dropout = 0.1;
  options.max_tokens = 256;
  Both both(samples::configs().front().config, at::kFloat, at::kFloat, options);
  const auto step = [&](uint64_t s) {
    both.device.zero_gradients();
    both.on_device->forward_backward(rows_of(both.host.config(), 8 + s % 3, 5, s), s);
  };
  for (uint64_t s = 0; s < 6; ++s) step(s);
  const fake_device::Counts before = device.counts();
  for (uint64_t s = 6; s < 16; ++s) step(s);
  EXPECT_EQ(device.counts().allocations, before.allocations);
  EXPECT_EQ(device.counts().waits, before.waits);
  EXPECT_EQ(device.counts().captures, before.captures);
  EXPECT_EQ(device.counts().replays, before.replays + 10);
  EXPECT_EQ(device.counts().uploads, before.uploads + 10);
}

// Each allocation of a step fails once, the first, the second …: the step either ends in a
// ResourceError or gets on, and whoever starts again from zeroed gradients with smaller pieces gets
// the gradients of the whole.
TEST(DeviceEngine, WhicheverAllocationFailsTheStepCanBeTakenAgainInPieces) {
  fake_device::Device device;
  const ModelConfig config = samples::configs()[3].config;
  const Batch batch = rows_of(config, 12, 5, 1);
  int failed = 0;
  for (int64_t n = 1; n <= 12; ++n) {
    Both both(config, at::kDouble, at::kDouble, {});
    both.on_cpu->forward_backward(batch, 1);
    device.fail_allocation(n);
    try {
      both.on_device->forward_backward(batch, 1);
    } catch (const ResourceError&) {
      ++failed;
      both.on_device->release_memory();
      both.device.zero_gradients();
      both.on_device->forward_backward(samples::documents(batch, 0, 6), 1);
      both.on_device->forward_backward(samples::documents(batch, 6, 12), 1);
    }
    device.fail_allocation(0);
    expect_same_step(both, 1e-12, fmt::format("allocation {}", n));
  }
  EXPECT_GE(failed, 3);  // the micro-batch's data, the arena, a kernel's scratch
}

INSTANTIATE_TEST_SUITE_P(Models, PaddingTest, testing::ValuesIn(samples::configs()),
                         [](const testing::TestParamInfo<samples::NamedConfig>& info) {
                           return info.param.name;
                         });
INSTANTIATE_TEST_SUITE_P(Models, DeviceEngineTest, testing::ValuesIn(samples::configs()),
                         [](const testing::TestParamInfo<samples::NamedConfig>& info) {
                           return info.param.name;
                         });

}  // namespace
}  // namespace train_sft
