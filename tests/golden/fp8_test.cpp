// Training with 8-bit products, emulated: 200 steps beside bfloat16's, and what a resume needs.
#include <gtest/gtest.h>

#include "golden/samples.h"
#include "train_sft/base/rng.h"
#include "train_sft/model/engine.h"
#include "train_sft/train/optimizer.h"

namespace train_sft {
namespace {

ModelConfig small_model() {
  ModelConfig config;
  config.family = Family::llama;
  config.n_layer = 5;  // three of them with 8-bit products
  config.n_head = 4;
  config.n_embd = 64;
  config.ffn_hidden = 160;
  config.vocab_size = 64;
  config.block_size = 64;
  return config;
}

// Every other token, on average, follows from the one before it.
Batch rows_of_step(const ModelConfig& config, uint64_t step) {
  const CounterRng rng(17, step);
  const auto vocabulary = static_cast<uint64_t>(config.vocab_size);
  Batch batch;
  batch.cu_seqlens.push_back(0);
  for (uint64_t row = 0; row < 6; ++row) {
    std::vector<int32_t> tokens;
    for (uint64_t i = 0; i < 65; ++i) {
      const uint64_t bits = rng.bits(100 * row + i);
      uint64_t next = bits % vocabulary;
      if (i > 0 && bits / vocabulary % 2 == 0)
        next = static_cast<uint64_t>(5 * tokens[i - 1] + 3) % vocabulary;
      tokens.push_back(static_cast<int32_t>(next));
    }
    for (int32_t i = 0; i < 64; ++i) {
      batch.learned.push_back(static_cast<int32_t>(batch.size()));
      batch.tokens.push_back(tokens[static_cast<size_t>(i)]);
      batch.targets.push_back(tokens[static_cast<size_t>(i) + 1]);
      batch.positions.push_back(i);
    }
    batch.cu_seqlens.push_back(static_cast<int32_t>(batch.size()));
    batch.example_ids.push_back(row);
  }
  batch.max_seqlen = 64;
  batch.rows = 6;
  return batch;
}

struct Training200 {
  explicit Training200(const Fp8Options& fp8)
      : parameters(small_model(), at::kFloat, at::kBFloat16) {
    initialise(parameters, 3);
    optimizer = std::make_unique<Optimizer>(parameters, OptimizerOptions{});
    EngineOptions options;
    options.fp8 = fp8;
    engine = std::make_unique<Engine>(parameters, options);
  }
  double step(uint64_t number) {
    parameters.zero_gradients();
    const LossSums sums =
        engine->forward_backward(rows_of_step(parameters.config(), number), number);
    optimizer->step(3e-3, sums.weight);
    engine->end_step();
    return sums.loss / sums.weight;
  }
  Parameters parameters;
  std::unique_ptr<Optimizer> optimizer;
  std::unique_ptr<Engine> engine;
};

std::vector<double> losses(const Fp8Options& fp8) {
  Training200 training(fp8);
  std::vector<double> got;
  for (uint64_t step = 0; step < 200; ++step) got.push_back(training.step(step));
  return got;
}

TEST(Fp8TrainingTest, TwoHundredStepsAreWithinOnePercentOfBFloat16) {
  const std::vector<double> expected = losses({});
  EXPECT_LT(expected.back(), 0.8 * expected.front());  // it learns
  const Fp8Options kinds[] = {{.on = true},
                              {.on = true, .history = 1},
                              {.on = true, .e5m2_gradients = false},
                              {.on = true, .weight_gradient = true}};
  for (const Fp8Options& kind : kinds) {
    const std::vector<double> got = losses(kind);
    EXPECT_NE(got[0], expected[0]);
    for (size_t first = 0; first < 200; first += 20) {
      double ours = 0, theirs = 0;
      for (size_t step = first; step < first + 20; ++step) {
        ours += got[step];
        theirs += expected[step];
      }
      EXPECT_NEAR(ours / theirs, 1, 0.01)
          << "steps " << first << " on, history " << kind.history << ", e5m2 "
          << kind.e5m2_gradients << ", weight gradient " << kind.weight_gradient;
    }
  }
}

TEST(Fp8TrainingTest, ItsStateIsWhatAResumeNeeds) {
  Training200 whole({.on = true});
  for (uint64_t step = 0; step < 5; ++step) whole.step(step);
  Training200 resumed({.on = true});
  resumed.parameters.copy_from(whole.parameters);
  resumed.optimizer->copy_moments(*whole.optimizer);
  const auto from = whole.engine->fp8_state(), to = resumed.engine->fp8_state();
  ASSERT_EQ(from.size(), to.size());
  ASSERT_GT(from.size(), 0U);
  for (size_t i = 0; i < from.size(); ++i) {
    EXPECT_FALSE(to[i].second.equal(from[i].second)) << from[i].first;
    to[i].second.copy_(from[i].second);
  }
  resumed.engine->restored_fp8();
  for (uint64_t step = 5; step < 8; ++step) EXPECT_EQ(resumed.step(step), whole.step(step));
  EXPECT_TRUE(resumed.parameters.master().equal(whole.parameters.master()));
}

}  // namespace
}  // namespace train_sft
