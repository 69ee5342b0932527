// Computing a part of the forward again must change nothing but memory and time: losses and
// gradients are those of keeping everything, to the bit.
#include <ATen/Parallel.h>
#include <gtest/gtest.h>

#include <cstring>

#include "golden/samples.h"
#include "train_sft/base/rng.h"
#include "train_sft/model/engine.h"

namespace train_sft {
namespace {

constexpr Recompute kKinds[] = {Recompute::attention, Recompute::block};

struct Trained {
  const char* name;
  Training training;
};

std::vector<Trained> trained_parts(Family family) {
  Training all, lora, upper;
  lora.lora_rank = 4;
  lora.lora_alpha = 8;
  upper.freeze = family == Family::gpt2
                     ? std::vector<std::string>{"transformer.wte.*", "transformer.wpe.*",
                                                "transformer.h.0.*", "transformer.h.1.*"}
                     : std::vector<std::string>{"model.embed_tokens.*", "model.layers.0.*",
                                                "model.layers.1.*"};
  return {{"all", all}, {"LoRA", lora}, {"upper layers", upper}};
}

// As initialised B is zero, biases are zero and gains one: every trained parameter gets noise.
void initialise_with_noise(Parameters& parameters) {
  initialise(parameters, 3);
  initialise_adapters(parameters, 3);
  for (const ParameterInfo& info : parameters.layout().parameters) {
    if (!info.trained()) continue;
    const CounterRng rng(5, hash_string(info.name));
    float* values = parameters.stored(info).view({-1}).mutable_data_ptr<float>();
    for (int64_t i = 0; i < info.numel; ++i)
      values[i] += static_cast<float>(0.1 * rng.normal(static_cast<uint64_t>(i)));
  }
  parameters.refresh_compute();
}

// Of two micro-batches, the larger one second, so that the arena moves in between.
std::vector<Batch> micro_batches(const ModelConfig& config, int learned_of_ten) {
  samples::BatchOptions small, large;
  small.learned_of_ten = large.learned_of_ten = learned_of_ten;
  small.weights = true;
  large.lengths = {24, 3, 11, 1, 24, 19, 7, 2};
  large.seed = 2;
  return {samples::batch(config, small), samples::batch(config, large)};
}

struct Result {
  LossSums sums;
  at::Tensor gradients;
  uint64_t arena_bytes = 0;
};

Result train(Parameters& parameters, const std::vector<Batch>& batches, double dropout,
             Recompute recompute) {
  EngineOptions options;
  options.dropout = dropout;
  options.seed = 11;
  options.recompute = recompute;
  Engine engine(parameters, options);
  parameters.zero_gradients();
  Result result;
  for (const Batch& batch : batches) {
    const LossSums sums = engine.forward_backward(batch, 9);
    engine.evaluate(batch);  // shares the arena
    result.sums.loss += sums.loss;
    result.sums.correct += sums.correct;
  }
  result.gradients = parameters.gradients().clone();
  result.arena_bytes = engine.arena_bytes();
  return result;
}

int64_t different_floats(const at::Tensor& a, const at::Tensor& b) {
  const float *x = a.const_data_ptr<float>(), *y = b.const_data_ptr<float>();
  int64_t count = 0;
  for (int64_t i = 0; i < a.numel(); ++i) count += std::memcmp(x + i, y + i, sizeof(float)) != 0;
  return count;
}

// Of the arena, after a first pass that leaves something in every byte the next one reads.
uint64_t engine_bytes_after(Engine& engine, Parameters& parameters, const Batch& batch) {
  parameters.zero_gradients();
  engine.forward_backward(batch, 8);
  return engine.arena_bytes();
}

class RecomputeTest : public testing::TestWithParam<samples::NamedConfig> {};

TEST_P(RecomputeTest, LossesAndGradientsAreTheSameToTheBit) {
  at::set_num_threads(1);  // models too small to share
  ModelConfig config = GetParam().config;
  config.n_layer = 4;
  for (const auto& [name, training] : trained_parts(config.family)) {
    for (const at::ScalarType compute : {at::kFloat, at::kBFloat16}) {
      Parameters parameters(config, at::kFloat, compute, true, training);
      initialise_with_noise(parameters);
      for (const double dropout : {0.0, 0.3}) {
        for (const int learned_of_ten : {4, 10}) {  // gathered before the last feed-forward; all
          const std::vector<Batch> batches = micro_batches(config, learned_of_ten);
          const Result kept = train(parameters, batches, dropout, Recompute::none);
          EXPECT_GT(kept.gradients.abs().max().item<double>(), 0.0);
          for (const Recompute recompute : kKinds) {
            const Result again = train(parameters, batches, dropout, recompute);
            const auto what = testing::Message()
                              << name << ", " << c10::toString(compute) << ", dropout " << dropout
                              << ", " << learned_of_ten << " of ten learned, recompute "
                              << static_cast<int>(recompute);
            EXPECT_EQ(again.sums.loss, kept.sums.loss) << what;
            EXPECT_EQ(again.sums.correct, kept.sums.correct) << what;
            EXPECT_EQ(different_floats(again.gradients, kept.gradients), 0) << what;
            EXPECT_LT(again.arena_bytes, kept.arena_bytes) << what;
          }
        }
      }
    }
  }
}

// What is given back is found again by no one: the third pass has the gradients of the first.
TEST_P(RecomputeTest, AnArenaThatGivesWayChangesNoBit) {
  at::set_num_threads(1);
  ModelConfig config = GetParam().config;
  config.n_layer = 4;
  config.block_size = 256;
  samples::BatchOptions lengths;
  lengths.lengths = std::vector<int>(24, 256);  // some megabytes a layer
  const Batch batch = samples::batch(config, lengths);
  for (const Recompute recompute : {Recompute::none, Recompute::block}) {
    Parameters parameters(config, at::kFloat, at::kFloat);
    initialise_with_noise(parameters);
    at::Tensor expected;
    for (const bool gives_way : {false, true}) {
      EngineOptions options;
      options.recompute = recompute;
      options.gives_way = gives_way;
      Engine engine(parameters, options);
      EXPECT_GT(engine_bytes_after(engine, parameters, batch), 8U << 20);
      for (int pass = 0; pass < 2; ++pass) {
        gives_way ? parameters.drop_gradients() : parameters.zero_gradients();
        EXPECT_EQ(parameters.gradients().abs().max().item<float>(), 0.0f);
        engine.forward_backward(batch, 9);
      }
      if (!expected.defined()) expected = parameters.gradients().clone();
      EXPECT_EQ(different_floats(parameters.gradients(), expected), 0);
    }
  }
}

TEST(RecomputeArenaTest, GradientsTakeTurnsWithActivations) {
  ModelConfig config = samples::configs().front().config;
  config.n_layer = 12;
  const auto beside = [&](int64_t tokens) {
    return Engine::planned_gradient_bytes(config, at::kFloat, false, Recompute::none, tokens);
  };
  const uint64_t all = 4 * static_cast<uint64_t>(parameter_layout(config).count());
  uint64_t in_layers = 0;
  for (const ParameterInfo& info : parameter_layout(config).parameters)
    if (info.layer >= 0) in_layers += 4 * static_cast<uint64_t>(info.numel);
  EXPECT_EQ(beside(1), all);  // an arena of less than a piece has nothing to give
  // Only those of the topmost layer may come before anything is finished.
  EXPECT_GE(beside(1 << 20), all - in_layers);
  EXPECT_LE(beside(1 << 20), all - in_layers / 12 * 11);
}

TEST_P(RecomputeTest, EachKindKeepsLessOfALayer) {
  const auto planned = [&](int64_t layers, Recompute recompute) {
    ModelConfig config = GetParam().config;
    config.n_layer = layers;
    return Engine::planned_arena_bytes(config, at::kFloat, true, recompute, 4096);
  };
  const auto of_a_layer = [&](Recompute recompute) {
    return (planned(24, recompute) - planned(8, recompute)) / 16;
  };
  const uint64_t block = of_a_layer(Recompute::block);
  EXPECT_LT(of_a_layer(Recompute::attention), of_a_layer(Recompute::none));
  EXPECT_LT(2 * block, of_a_layer(Recompute::attention));
  // The residual stream that enters it, and nothing else.
  EXPECT_EQ(block, static_cast<uint64_t>(4 * 4096 * GetParam().config.n_embd));
}

TEST(RecomputeArenaTest, TheOnlyLayerIsNotComputedTwice) {
  ModelConfig config = samples::configs().front().config;
  config.n_layer = 1;
  EXPECT_EQ(Engine::planned_arena_bytes(config, at::kFloat, false, Recompute::block, 512),
            Engine::planned_arena_bytes(config, at::kFloat, false, Recompute::none, 512));
}

INSTANTIATE_TEST_SUITE_P(Models, RecomputeTest, testing::ValuesIn(samples::configs()),
                         [](const testing::TestParamInfo<samples::NamedConfig>& info) {
                           return info.param.name;
                         });

}  // namespace
}  // namespace train_sft
