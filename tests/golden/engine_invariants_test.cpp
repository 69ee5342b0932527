// What must hold of the engine whatever the numbers are: accumulation, independence of documents,
// masks that do not depend on how rows were cut, memory that is planned once.
#include <ATen/ops/zeros.h>
#include <c10/core/CPUAllocator.h>
#include <gtest/gtest.h>

#include <atomic>

#include "golden/samples.h"
#include "train_sft/base/error.h"
#include "train_sft/model/engine.h"

namespace train_sft {
namespace {

// Forwards to torch's own allocator and counts.
class CountingAllocator : public c10::Allocator {
 public:
  c10::DataPtr allocate(size_t bytes) override {
    if (bytes > 0) ++count;
    return c10::GetDefaultCPUAllocator()->allocate(bytes);
  }
  void copy_data(void* to, const void* from, std::size_t bytes) const override {
    default_copy_data(to, from, bytes);
  }
  std::atomic<int64_t> count{0};
};

class CountAllocations {
 public:
  CountAllocations() : previous_(c10::GetCPUAllocator()) {
    allocator_.count = 0;
    c10::SetCPUAllocator(&allocator_, 9);
  }
  ~CountAllocations() { c10::SetCPUAllocator(previous_, 9); }
  int64_t count() const { return allocator_.count; }

 private:
  c10::Allocator* previous_;
  static CountingAllocator allocator_;
};
CountingAllocator CountAllocations::allocator_;

samples::BatchOptions eight_rows() {
  samples::BatchOptions options;
  options.lengths = {24, 3, 11, 1, 24, 19, 7, 2};
  options.learned_of_ten = 4;
  options.weights = true;
  return options;
}

double relative_l2(const at::Tensor& got, const at::Tensor& expected) {
  return got.sub(expected).norm().item<double>() / expected.norm().item<double>();
}

class EngineInvariantsTest : public testing::TestWithParam<samples::NamedConfig> {};

TEST_P(EngineInvariantsTest, OneByEightTwoByFourAndEightByOneGiveTheSameGradient) {
  const ModelConfig& config = GetParam().config;
  const Batch rows = samples::batch(config, eight_rows());
  for (double dropout : {0.0, 0.3}) {
    Parameters parameters(config, at::kFloat, at::kFloat);
    samples::randomise(parameters, 4);
    EngineOptions options;
    options.dropout = dropout;
    Engine engine(parameters, options);
    at::Tensor expected;
    LossSums whole;
    for (int64_t size : {8, 4, 2, 1}) {
      parameters.zero_gradients();
      LossSums sums;
      for (int64_t first = 0; first < 8; first += size) {
        const LossSums part =
            engine.forward_backward(samples::documents(rows, first, first + size), 9);
        sums.loss += part.loss;
        sums.weight += part.weight;
        sums.tokens += part.tokens;
      }
      if (size == 8) {
        whole = sums;
        expected = parameters.gradients().clone();
        continue;
      }
      EXPECT_NEAR(sums.loss / whole.loss, 1.0, 1e-5) << size << " rows, dropout " << dropout;
      EXPECT_NEAR(sums.weight / whole.weight, 1.0, 1e-9);
      EXPECT_EQ(sums.tokens, whole.tokens);
      EXPECT_LE(relative_l2(parameters.gradients(), expected), 1e-5)
          << size << " rows, dropout " << dropout;
    }
  }
}

TEST_P(EngineInvariantsTest, ADocumentsLossDoesNotDependOnItsNeighbours) {
  const ModelConfig& config = GetParam().config;
  Parameters parameters(config, at::kFloat, at::kFloat, /*with_gradients=*/false);
  samples::randomise(parameters, 5);
  Engine engine(parameters, {});
  const Batch rows = samples::batch(config, eight_rows());
  const std::vector<int64_t> order = {5, 0, 7, 2, 1, 6, 4, 3};
  for (int64_t place = 0; place < 8; ++place) {
    const int64_t d = order[static_cast<size_t>(place)];
    const Batch alone = samples::documents(rows, d, d + 1);
    const LossSums expected = engine.evaluate(alone);
    const LossSums packed = engine.evaluate(samples::only_learning(rows, d));
    const LossSums moved =
        engine.evaluate(samples::only_learning(samples::reordered(rows, order), place));
    EXPECT_EQ(packed.tokens, expected.tokens);
    EXPECT_NEAR(packed.loss, expected.loss, 1e-5 * expected.loss) << "document " << d;
    EXPECT_NEAR(moved.loss, expected.loss, 1e-5 * expected.loss) << "document " << d;
  }
}

TEST_P(EngineInvariantsTest, EvaluationDropsNothingAndLeavesGradientsAlone) {
  Parameters parameters(GetParam().config, at::kFloat, at::kFloat);
  samples::randomise(parameters, 6);
  EngineOptions options;
  options.dropout = 0.5;
  Engine dropping(parameters, options), plain(parameters, {});
  const Batch batch = samples::batch(parameters.config());
  EXPECT_EQ(dropping.evaluate(batch).loss, plain.evaluate(batch).loss);
  EXPECT_NE(dropping.forward_backward(batch, 0).loss, dropping.forward_backward(batch, 1).loss);
  parameters.zero_gradients();
  plain.evaluate(batch);
  EXPECT_EQ(parameters.gradients().abs().max().item<double>(), 0.0);
}

TEST_P(EngineInvariantsTest, NoTensorStorageIsAllocatedInSteadyState) {
  const std::pair<at::ScalarType, Recompute> kinds[] = {{at::kFloat, Recompute::none},
                                                        {at::kBFloat16, Recompute::none},
                                                        {at::kFloat, Recompute::attention},
                                                        {at::kFloat, Recompute::block}};
  for (const auto& [compute, recompute] : kinds) {
    Parameters parameters(GetParam().config, at::kFloat, compute);
    samples::randomise(parameters, 7);
    EngineOptions options;
    options.dropout = 0.1;
    options.recompute = recompute;
    Engine engine(parameters, options);
    // Micro-batches of differing sizes; the largest is among the first ten.
    std::vector<Batch> batches;
    for (int i = 0; i < 20; ++i) {
      samples::BatchOptions rows = eight_rows();
      rows.lengths.resize(static_cast<size_t>(8 - (i + 3) % 5));
      rows.seed = static_cast<uint64_t>(i);
      batches.push_back(samples::batch(parameters.config(), rows));
    }
    for (uint64_t step = 0; step < 10; ++step) engine.forward_backward(batches[step], step);
    engine.evaluate(batches[2]);
    const CountAllocations allocations;
    const uint64_t arena = engine.arena_bytes();
    for (uint64_t step = 10; step < 20; ++step) {
      parameters.zero_gradients();
      engine.forward_backward(batches[step], step);
      engine.evaluate(batches[step]);
    }
    EXPECT_EQ(allocations.count(), 0) << c10::toString(compute);
    EXPECT_EQ(engine.arena_bytes(), arena);
  }
}

TEST(EngineTest, TheCountingAllocatorCounts) {
  const CountAllocations allocations;
  const at::Tensor tensor = at::zeros({3}, at::kFloat);
  EXPECT_GE(allocations.count(), 1);
}

TEST(EngineTest, ABatchWithNothingLearnedChangesNothing) {
  Parameters parameters(samples::configs().front().config, at::kFloat, at::kFloat);
  samples::randomise(parameters, 8);
  Engine engine(parameters, {});
  Batch batch = samples::batch(parameters.config());
  batch.learned.clear();
  const LossSums sums = engine.forward_backward(batch, 0);
  EXPECT_EQ(sums.tokens, 0);
  EXPECT_EQ(sums.loss, 0.0);
  EXPECT_EQ(parameters.gradients().abs().max().item<double>(), 0.0);
  EXPECT_EQ(engine.evaluate(Batch{}).tokens, 0);
}

TEST(EngineTest, TheArenaIsPlannedAheadAndLimited) {
  Parameters parameters(samples::configs().front().config, at::kFloat, at::kFloat);
  samples::randomise(parameters, 9);
  EngineOptions options;
  options.max_tokens = 200;
  Engine engine(parameters, options);
  const uint64_t planned = engine.arena_bytes();
  EXPECT_GT(planned, 0U);
  engine.forward_backward(samples::batch(parameters.config()), 0);
  EXPECT_EQ(engine.arena_bytes(), planned);
  options.max_arena_bytes = planned - 1;
  EXPECT_THROW(Engine(parameters, options), ResourceError);
}

TEST(EngineTest, InferenceNeedsAFractionOfTheMemoryOfTraining) {
  ModelConfig config = samples::configs().front().config;
  config.n_layer = 8;
  Parameters trained(config, at::kFloat, at::kFloat);
  Parameters frozen(config, at::kFloat, at::kFloat, /*with_gradients=*/false);
  EngineOptions options;
  options.max_tokens = 256;
  EXPECT_LT(4 * Engine(frozen, options).arena_bytes(), Engine(trained, options).arena_bytes());
}

INSTANTIATE_TEST_SUITE_P(Models, EngineInvariantsTest, testing::ValuesIn(samples::configs()),
                         [](const testing::TestParamInfo<samples::NamedConfig>& info) {
                           return info.param.name;
                         });

}  // namespace
}  // namespace train_sft
