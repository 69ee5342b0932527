// The engine against the executable specification: loss, logits and every gradient.
#include <c10/core/GradMode.h>
#include <fmt/format.h>
#include <gtest/gtest.h>

#include <utility>

#include "golden/samples.h"
#include "golden/spec.h"
#include "model/dropout_sites.h"
#include "train_sft/model/engine.h"
#include "train_sft/ops/dropout.h"
#include "train_sft/ops/kernels.h"

namespace train_sft {
namespace {

constexpr uint64_t kSeed = 11;
constexpr uint64_t kStep = 42;

spec::DropoutMasks masks_of(const Batch& batch, const ModelConfig& config, double p) {
  spec::DropoutMasks masks;
  if (p == 0) return masks;
  std::vector<uint64_t> keys(batch.tokens.size());
  ops::dropout_row_keys(keys, kSeed, kStep, batch.cu_seqlens, batch.example_ids, batch.positions);
  const auto mask = [&](uint32_t site) {
    at::Tensor factors = at::empty({batch.size(), config.n_embd}, at::kDouble);
    ops::dropout_mask(factors, keys, site, p);
    return factors;
  };
  masks.embedding = mask(kEmbeddingSite);
  for (int64_t l = 0; l < config.n_layer; ++l) {
    masks.attention.push_back(mask(attention_site(static_cast<size_t>(l))));
    masks.ffn.push_back(mask(ffn_site(static_cast<size_t>(l))));
  }
  return masks;
}

double relative_l2(const at::Tensor& got, const at::Tensor& expected) {
  const at::Tensor want = expected.to(at::kDouble);
  const double norm = want.norm().item<double>();
  return (got.to(at::kDouble) - want).norm().item<double>() / (norm > 0 ? norm : 1.0);
}

// Loss, logits and gradients of one micro-batch agree within `tolerance`, relative to each tensor's
// norm.
void expect_agreement(Parameters& parameters, const Batch& batch, double dropout,
                      spec::Model::Source source, double tolerance) {
  const ModelConfig& config = parameters.config();
  EngineOptions options;
  options.dropout = dropout;
  options.seed = kSeed;
  Engine engine(parameters, options);
  spec::Model model(parameters, at::kDouble, source);

  parameters.zero_gradients();
  const LossSums sums = engine.forward_backward(batch, kStep);
  const at::Tensor loss = model.loss(batch, masks_of(batch, config, dropout));
  loss.backward();
  EXPECT_NEAR(sums.loss / loss.item<double>(), 1.0, tolerance);
  double weight = batch.weights.empty() ? static_cast<double>(batch.learned.size()) : 0.0;
  for (float w : batch.weights) weight += w;
  EXPECT_NEAR(sums.weight, weight, 1e-6);
  EXPECT_EQ(sums.tokens, static_cast<int64_t>(batch.learned.size()));
  for (const ParameterInfo& info : parameters.layout().parameters) {
    const at::Tensor expected = model.parameter(info.name).grad();
    ASSERT_TRUE(expected.defined()) << info.name;
    // A key's bias moves all of a row's scores alike but for the rotation: its gradient is what
    // cancellation leaves, and rounding weighs more.
    const double allowed = info.name.ends_with("k_proj.bias") ? 4 * tolerance : tolerance;
    EXPECT_LE(relative_l2(parameters.gradient(info.name), expected), allowed) << info.name;
  }

  c10::NoGradGuard no_grad;
  const at::Tensor logits = model.logits(batch);
  EXPECT_LE(relative_l2(engine.logits(batch), logits), tolerance);
  EXPECT_NEAR(engine.evaluate(batch).loss / model.loss(batch).item<double>(), 1.0, tolerance);
}

struct Case {
  samples::NamedConfig model;
  double dropout;
  friend std::ostream& operator<<(std::ostream& out, const Case& self) {
    return out << self.model << " with dropout " << self.dropout;
  }
};

std::vector<Case> cases() {
  std::vector<Case> all;
  for (const auto& model : samples::configs())
    for (double dropout : {0.0, 0.25}) all.push_back({model, dropout});
  return all;
}

class EngineSpecTest : public testing::TestWithParam<Case> {
 protected:
  void run(at::ScalarType dtype, at::ScalarType compute, spec::Model::Source source,
           double tolerance) {
    Parameters parameters(GetParam().model.config, dtype, compute);
    samples::randomise(parameters, 3);
    // Ten: every target is learned, and the engine has nothing to leave out on top.
    for (const auto& [learned_of_ten, weights] : {std::pair{7, false}, {3, true}, {10, true}}) {
      samples::BatchOptions options;
      options.weights = weights;
      options.learned_of_ten = learned_of_ten;
      options.seed = static_cast<uint64_t>(learned_of_ten);
      const Batch batch = samples::batch(parameters.config(), options);
      SCOPED_TRACE(fmt::format("{} of ten learned{}", learned_of_ten, weights ? ", weighted" : ""));
      expect_agreement(parameters, batch, GetParam().dropout, source, tolerance);
    }
  }
};

TEST_P(EngineSpecTest, DoubleThroughTheReferences) {
  run(at::kDouble, at::kDouble, spec::Model::Source::master, 1e-9);
}

TEST_P(EngineSpecTest, FloatThroughTheFastKernels) {
  for (ops::Kernels kernels : {ops::Kernels::avx2, ops::Kernels::avx512}) {
    if (!ops::machine_runs(kernels)) continue;
    SCOPED_TRACE(ops::kernels_name(kernels));
    const ops::KernelsOverride override_kernels(kernels);
    run(at::kFloat, at::kFloat, spec::Model::Source::master, 1e-4);
  }
}

TEST_P(EngineSpecTest, FloatThroughTheReferences) {
  const ops::KernelsOverride override_kernels(ops::Kernels::reference);
  run(at::kFloat, at::kFloat, spec::Model::Source::master, 1e-4);
}

// What is a fair error in bfloat16 is not ours to say: the specification itself, run by PyTorch in
// bfloat16, is as far from float64 as rounding each intermediate result makes it. The engine rounds
// in other places, so its errors are another draw of about the same size: half as much again is
// allowed, tensor by tensor (or one rounding, 2^-8). Measured: at most 1.23 times PyTorch's.
TEST_P(EngineSpecTest, BFloat16AsCloseToFloat64AsPyTorchInBFloat16) {
  Parameters parameters(GetParam().model.config, at::kFloat, at::kBFloat16);
  samples::randomise(parameters, 3);
  EngineOptions options;
  options.dropout = GetParam().dropout;
  options.seed = kSeed;
  Engine engine(parameters, options);
  const Batch batch = samples::batch(parameters.config(), {});
  const spec::DropoutMasks masks = masks_of(batch, parameters.config(), options.dropout);
  spec::Model exact(parameters, at::kDouble, spec::Model::Source::compute);
  spec::Model rounded(parameters, at::kBFloat16, spec::Model::Source::compute);
  const at::Tensor loss = exact.loss(batch, masks);
  loss.backward();
  rounded.loss(batch, masks).backward();
  parameters.zero_gradients();
  const LossSums sums = engine.forward_backward(batch, kStep);
  EXPECT_NEAR(sums.loss / loss.item<double>(), 1.0, 0x1p-8);
  for (const ParameterInfo& info : parameters.layout().parameters) {
    const at::Tensor expected = exact.parameter(info.name).grad();
    const double fair = relative_l2(rounded.parameter(info.name).grad(), expected);
    // A softmax's gradient sums to zero over the keys, so that little is left of a key's bias's but
    // rounding. Ours takes Σ_j p_ij dp_ij as grad_out · out (as FlashAttention does) with out
    // rounded to bfloat16, where PyTorch's sum cancels in float: measured up to 6.2 times its
    // error. The few weights of Qwen3's norms of q and k see the same: up to 1.9 times.
    const bool of_heads =
        info.name.ends_with("q_norm.weight") || info.name.ends_with("k_norm.weight");
    const double factor = info.name.ends_with("k_proj.bias") ? 8 : of_heads ? 2.5 : 1.5;
    EXPECT_LE(relative_l2(parameters.gradient(info.name), expected),
              std::max(factor * fair, 0x1p-8))
        << info.name;
  }
  c10::NoGradGuard no_grad;
  const at::Tensor logits = exact.logits(batch);
  EXPECT_LE(relative_l2(engine.logits(batch), logits), relative_l2(rounded.logits(batch), logits));
}

// As loops do that know rows of one length alone: every document filled up with a token behind it.
Batch padded(const Batch& batch, int32_t filler) {
  Batch result;
  result.cu_seqlens = {0};
  result.example_ids = batch.example_ids;
  result.weights = batch.weights;
  result.max_seqlen = batch.max_seqlen;
  result.rows = batch.rows;
  for (size_t d = 0; d < batch.example_ids.size(); ++d) {
    const int32_t first = batch.cu_seqlens[d], end = batch.cu_seqlens[d + 1];
    const auto start = static_cast<int32_t>(result.tokens.size());
    for (const int32_t n : batch.learned)
      if (n >= first && n < end) result.learned.push_back(start + n - first);
    for (int32_t t = 0; t < batch.max_seqlen; ++t) {
      const bool real = first + t < end;
      const auto n = static_cast<size_t>(first + t);
      result.tokens.push_back(real ? batch.tokens[n] : filler);
      result.targets.push_back(real ? batch.targets[n] : kNoTarget);
      result.positions.push_back(t);
    }
    result.cu_seqlens.push_back(static_cast<int32_t>(result.tokens.size()));
  }
  return result;
}

class EvaluationTest : public testing::TestWithParam<samples::NamedConfig> {};

TEST_P(EvaluationTest, PaddedPackedAndOneAtATimeHaveTheSameTotal) {
  Parameters parameters(GetParam().config, at::kFloat, at::kFloat, /*with_gradients=*/false);
  samples::randomise(parameters, 6);
  for (const bool weights : {false, true}) {
    samples::BatchOptions options;
    options.weights = weights;
    const Batch batch = samples::batch(GetParam().config, options);
    const Batch filled = padded(batch, 3);
    ASSERT_GT(filled.size(), 2 * batch.size());
    ASSERT_EQ(filled.learned.size(), batch.learned.size());
    const c10::NoGradGuard no_gradients;
    const double expected = spec::Model(parameters, at::kFloat).loss(filled).item<double>();
    Engine engine(parameters, {});
    EXPECT_NEAR(engine.evaluate(batch).loss / expected, 1.0, 1e-5);
    EXPECT_NEAR(engine.evaluate(filled).loss / expected, 1.0, 1e-5);
    double one_at_a_time = 0;
    for (int64_t d = 0; d < batch.documents(); ++d)
      one_at_a_time += engine.evaluate(samples::documents(batch, d, d + 1)).loss;
    EXPECT_NEAR(one_at_a_time / expected, 1.0, 1e-5);
  }
}

INSTANTIATE_TEST_SUITE_P(Models, EvaluationTest, testing::ValuesIn(samples::configs()),
                         testing::PrintToStringParamName());

INSTANTIATE_TEST_SUITE_P(Models, EngineSpecTest, testing::ValuesIn(cases()),
                         [](const testing::TestParamInfo<Case>& info) {
                           return info.param.model.name +
                                  (info.param.dropout > 0 ? "_dropout" : "");
                         });

}  // namespace
}  // namespace train_sft
