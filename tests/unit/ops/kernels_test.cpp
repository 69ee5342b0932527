// Every fast kernel in float and bfloat16, on each instruction set, against the double reference on
// the same inputs; sizes are odd on purpose.
#include <ATen/Parallel.h>

#include <cstring>

#include "train_sft/ops/adamw.h"
#include "train_sft/ops/attention.h"
#include "train_sft/ops/cross_entropy.h"
#include "train_sft/ops/dropout.h"
#include "train_sft/ops/embedding.h"
#include "train_sft/ops/gelu.h"
#include "train_sft/ops/layer_norm.h"
#include "train_sft/ops/linear.h"
#include "train_sft/ops/normal.h"
#include "train_sft/ops/qk_norm.h"
#include "train_sft/ops/rms_norm.h"
#include "train_sft/ops/rope.h"
#include "train_sft/ops/swiglu.h"
#include "unit/ops/check.h"

namespace train_sft::ops {
namespace {

// Makes the tensors an op is run with: they are rounded to `inputs`, then computed with in
// `compute`.
struct Maker {
  at::ScalarType inputs, compute;
  at::Tensor random(std::vector<int64_t> sizes, uint64_t seed) const {
    return random_tensor(std::move(sizes), seed, inputs).to(compute);
  }
  at::Tensor empty(std::vector<int64_t> sizes) const {
    return at::full(sizes, 7.0, at::TensorOptions(compute));
  }
  at::ScalarType wide() const { return compute == at::kDouble ? at::kDouble : at::kFloat; }
  // Statistics and weight gradients, which begin with something in them.
  at::Tensor started(std::vector<int64_t> sizes, uint64_t seed) const {
    return random_tensor(std::move(sizes), seed, at::kFloat).to(wide());
  }
};

struct Output {
  std::string name;
  at::Tensor value;
};
using Op = std::function<std::vector<Output>(const Maker&)>;

void expect_like_reference(const Op& op, double float_tolerance = 3e-6,
                           double bfloat16_tolerance = 8e-3) {
  for (at::ScalarType dtype : {at::kFloat, at::kBFloat16}) {
    const double tolerance = dtype == at::kFloat ? float_tolerance : bfloat16_tolerance;
    const std::vector<Output> expected = op({dtype, at::kDouble});
    for_fast_kernels([&](const std::string& name) {
      for (int threads : {1, 2}) {
        const int before = at::get_num_threads();
        at::set_num_threads(threads);
        const std::vector<Output> outputs = op({dtype, dtype}), again = op({dtype, dtype});
        at::set_num_threads(before);
        for (size_t i = 0; i < outputs.size(); ++i) {
          const std::string where = fmt::format("{} of {} in {}, {} threads", outputs[i].name, name,
                                                c10::toString(dtype), threads);
          EXPECT_LT(relative_error(outputs[i].value, expected[i].value), tolerance) << where;
          EXPECT_TRUE(outputs[i].value.equal(again[i].value)) << where << ": bits do not repeat";
        }
      }
    });
  }
}

const int64_t kRows[][2] = {{1, 1}, {3, 5}, {7, 16}, {130, 129}, {37, 768}};

TEST(KernelsTest, Gelu) {
  for (const auto& [N, C] : kRows) {
    expect_like_reference([&, N = N, C = C](const Maker& make) {
      const at::Tensor x = make.random({N, C}, 1).mul(8), y = make.empty({N, C}),
                       dx = make.empty({N, C});
      gelu_forward(y, x);
      gelu_backward(dx, make.random({N, C}, 2), x);
      return std::vector<Output>{{"out", y}, {"grad_input", dx}};
    });
  }
}

TEST(KernelsTest, Swiglu) {
  for (const auto& [N, F] : kRows) {
    expect_like_reference([&, N = N, F = F](const Maker& make) {
      const at::Tensor x = make.random({N, 2 * F}, 1).mul(8), y = make.empty({N, F});
      swiglu_forward(y, x);
      const at::Tensor dx = x.clone();
      swiglu_backward(dx, make.random({N, F}, 2), dx);  // in place
      return std::vector<Output>{{"out", y}, {"grad_gate_up", dx}};
    });
  }
}

TEST(KernelsTest, LayerNorm) {
  for (const auto& [N, C] : kRows) {
    if (C == 1) continue;  // the gradient of one centred channel is all rounding
    for (bool with_delta : {false, true}) {
      expect_like_reference(
          [&, N = N, C = C](const Maker& make) {
            const at::Tensor normed = make.empty({N, C}), mean = make.started({N}, 1);
            const at::Tensor rstd = make.started({N}, 2), x = make.random({N, C}, 3).add(2);
            const at::Tensor weight = make.random({C}, 4), bias = make.random({C}, 5);
            const at::Tensor delta = with_delta ? make.random({N, C}, 6) : at::Tensor();
            const at::Tensor sum = with_delta ? make.empty({N, C}) : at::Tensor();
            layer_norm_forward(normed, sum, mean, rstd, x, delta, weight, bias, 1e-5);
            const at::Tensor dx = make.random({N, C}, 7), dw = make.started({C}, 8);
            const at::Tensor db = make.started({C}, 9);
            layer_norm_backward(dx, dw, db, make.random({N, C}, 10), with_delta ? sum : x, mean,
                                rstd, weight);
            std::vector<Output> outputs{{"normed", normed}, {"mean", mean},      {"rstd", rstd},
                                        {"grad_input", dx}, {"grad_weight", dw}, {"grad_bias", db}};
            if (with_delta) outputs.push_back({"residual_out", sum});
            return outputs;
          },
          2e-5, 3e-2);
    }
  }
}

TEST(KernelsTest, RmsNorm) {
  for (const auto& [N, C] : kRows) {
    expect_like_reference(
        [&, N = N, C = C](const Maker& make) {
          const at::Tensor normed = make.empty({N, C}), sum = make.empty({N, C});
          const at::Tensor rstd = make.started({N}, 2), weight = make.random({C}, 4);
          rms_norm_forward(normed, sum, rstd, make.random({N, C}, 3), make.random({N, C}, 6),
                           weight, 1e-5);
          const at::Tensor dx = make.empty({N, C}), dw = make.started({C}, 8);
          rms_norm_backward(dx, dw, make.random({N, C}, 10), sum, rstd, weight,
                            /*accumulate=*/false);
          return std::vector<Output>{{"normed", normed},
                                     {"residual_out", sum},
                                     {"rstd", rstd},
                                     {"grad_input", dx},
                                     {"grad_weight", dw}};
        },
        C == 1 ? 1e-2 : 2e-5, C == 1 ? 1.0 : 3e-2);
  }
}

TEST(KernelsTest, QkNorm) {
  for (int64_t D : {6, 16, 40, 128}) {
    for (int64_t N : {1, 5, 70}) {  // 70 rows of 128 channels are worth several threads
      const AttentionShape shape{3, 1, D};
      expect_like_reference(
          [&](const Maker& make) {
            const at::Tensor qkv = make.random({N, shape.qkv_width()}, 1);
            const at::Tensor input = make.empty({N, 4 * D}), rstd = make.started({N, 4}, 2);
            const at::Tensor wq = make.random({D}, 3), wk = make.random({D}, 4);
            qk_norm_forward(qkv, input, rstd, wq, wk, 1e-5, shape);
            const at::Tensor grad = make.random({N, shape.qkv_width()}, 5);
            const at::Tensor dq = make.started({D}, 6), dk = make.started({D}, 7);
            qk_norm_backward(grad, dq, dk, input, rstd, wq, wk, shape);
            return std::vector<Output>{{"qkv", qkv},   {"input", input}, {"rstd", rstd},
                                       {"grad", grad}, {"grad_q", dq},   {"grad_k", dk}};
          },
          2e-5, 3e-2);
    }
  }
}

TEST(KernelsTest, EmbeddingAndBias) {
  const int64_t V = 9, P = 6;
  for (const auto& [N, C] : kRows) {
    std::vector<int32_t> tokens(N), positions(N);
    for (int64_t n = 0; n < N; ++n) {
      tokens[n] = static_cast<int32_t>(n * n % V);
      positions[n] = static_cast<int32_t>(n % P);
    }
    expect_like_reference([&, N = N, C = C](const Maker& make) {
      const at::Tensor out = make.empty({N, C}), dt = make.started({V, C}, 1);
      const at::Tensor dp = make.started({P, C}, 2), db = make.started({C}, 3);
      embedding_forward(out, make.random({V, C}, 4), make.random({P, C}, 5), tokens, positions);
      embedding_backward(dt, dp, make.random({N, C}, 6), tokens, positions);
      linear_backward_bias(db, make.random({N, C}, 7));
      return std::vector<Output>{
          {"out", out}, {"grad_table", dt}, {"grad_position_table", dp}, {"grad_bias", db}};
    });
  }
}

TEST(KernelsTest, Rope) {
  for (int64_t D : {2, 10, 32, 64}) {
    const AttentionShape shape{3, 1, D};
    const std::vector<int32_t> positions{0, 1, 2, 3, 0, 1, 2, 31};
    expect_like_reference([&](const Maker& make) {
      const at::Tensor qkv = make.random({8, shape.qkv_width()}, 1), back = qkv.clone();
      const at::Tensor cosines = at::empty({32, D / 2}, make.wide()),
                       sines = at::empty_like(cosines);
      rope_table(cosines, sines, 10000.0);
      rope_forward(qkv, cosines, sines, positions, shape);
      rope_backward(back, cosines, sines, positions, shape);
      return std::vector<Output>{{"qkv", qkv}, {"grad_qkv", back}};
    });
  }
}

TEST(KernelsTest, AttentionOverDocumentsOfAnyLength) {
  struct Case {
    AttentionShape shape;
    std::vector<int32_t> cu_seqlens;
  };
  const Case cases[] = {{{1, 1, 1}, {0, 1}},
                        {{4, 4, 32}, {0, 64, 128, 192}},
                        {{4, 2, 8}, {0, 1, 2, 2, 30, 31, 100}},
                        {{6, 2, 20}, {0, 57, 58, 90}},
                        {{3, 1, 64}, {0, 300, 301, 620}},
                        {{2, 2, 80}, {0, 257}}};
  for (const Case& c : cases) {
    const int64_t N = c.cu_seqlens.back(), H = c.shape.n_head;
    expect_like_reference(
        [&](const Maker& make) {
          const at::Tensor qkv = make.random({N, c.shape.qkv_width()}, 1).mul(2);
          const at::Tensor out = make.empty({N, c.shape.out_width()}),
                           lse = make.started({H, N}, 2);
          attention_forward(out, lse, qkv, c.cu_seqlens, c.shape);
          const at::Tensor grad = make.empty(qkv.sizes().vec());
          attention_backward(grad, make.random(out.sizes().vec(), 3), out, lse, qkv, c.cu_seqlens,
                             c.shape);
          return std::vector<Output>{{"out", out}, {"lse", lse}, {"grad_qkv", grad}};
        },
        1e-5, 1.5e-2);
  }
}

TEST(KernelsTest, DecodingEqualsTheLastRowsOfAttention) {
  const AttentionShape shape{4, 2, 24};
  const int64_t T = 45, M = 3;
  expect_like_reference(
      [&](const Maker& make) {
        const at::Tensor qkv = make.random({T, shape.qkv_width()}, 1);
        const at::Tensor whole = make.empty({T, shape.out_width()}), lse = make.started({4, T}, 2);
        const std::vector<int32_t> cu_seqlens{0, static_cast<int32_t>(T)};
        attention_forward(whole, lse, qkv, cu_seqlens, shape);
        const int64_t q = shape.out_width(), kv = shape.n_kv_head * shape.head_dim;
        const at::Tensor k = make.empty({T + 5, 2, 24}), v = make.empty({T + 5, 2, 24});
        k.narrow(0, 0, T).copy_(qkv.narrow(1, q, kv).reshape({T, 2, 24}));
        v.narrow(0, 0, T).copy_(qkv.narrow(1, q + kv, kv).reshape({T, 2, 24}));
        const at::Tensor out = make.empty({M, q});
        attention_decode(out, qkv.narrow(0, T - M, M).narrow(1, 0, q), k, v, T, shape);
        EXPECT_LT(relative_error(out, whole.narrow(0, T - M, M)), 8e-3);
        return std::vector<Output>{{"out", out}};
      },
      1e-5);
}

TEST(KernelsTest, DropoutMaskIsTheSameInEveryDtype) {
  std::vector<uint64_t> keys(50);
  const std::vector<int32_t> cu_seqlens{0, 20, 50};
  std::vector<int32_t> positions(50);
  for (int i = 0; i < 50; ++i) positions[i] = i < 20 ? i : i - 20;
  dropout_row_keys(keys, 1, 2, cu_seqlens, std::vector<uint64_t>{7, 9}, positions);
  expect_like_reference(
      [&](const Maker& make) {
        const at::Tensor out = make.empty({50, 77});
        dropout(out, make.random({50, 77}, 1), keys, 3, 0.3);
        const at::Tensor mask = make.empty({50, 77}), kept = out.ne(0).to(make.compute);
        dropout_mask(mask, keys, 3, 0.3);
        EXPECT_TRUE(mask.ne(0).to(make.compute).equal(kept));
        return std::vector<Output>{{"out", out}, {"kept", kept}};
      },
      3e-6, 8e-3);
}

TEST(KernelsTest, LinearCrossEntropy) {
  for (int64_t V : {1, 17, 65, 1000}) {
    const int64_t N = 41, C = 24;
    std::vector<int32_t> targets(N), learned;
    std::vector<float> weights;
    for (int64_t n = 0; n < N; ++n) {
      targets[n] = static_cast<int32_t>(n * 7 % V);
      if (n % 3 == 0) continue;
      learned.push_back(static_cast<int32_t>(n));
      weights.push_back(0.25f * static_cast<float>(n % 5));
    }
    expect_like_reference(
        [&](const Maker& make) {
          const at::Tensor hidden = make.random({N, C}, 1), weight = make.random({V, C}, 2);
          const at::Tensor dw = make.started({V, C}, 3), dx = hidden.clone();
          const at::Tensor scratch =
              at::empty({linear_cross_entropy_scratch_bytes(make.compute, 10, C, V)}, at::kByte);
          const CrossEntropySums sums =
              linear_cross_entropy(dx, dw, dx, weight, targets, learned, weights, scratch);
          const CrossEntropySums forward =
              linear_cross_entropy({}, {}, hidden, weight, targets, learned, weights, scratch);
          EXPECT_EQ(sums.loss, forward.loss);
          EXPECT_EQ(sums.correct, forward.correct);
          return std::vector<Output>{
              {"grad_hidden", dx},
              {"grad_weight", dw},
              {"loss", at::full({1}, sums.loss, at::kDouble)},
              {"correct", at::full({1}, static_cast<double>(sums.correct), at::kDouble)}};
        },
        1e-5, 2e-2);
  }
}

TEST(KernelsTest, AdamW) {
  for (int64_t n : {1, 15, 1000, 40001}) {
    const AdamWStep step{3e-4, 0.9, 0.95, 1e-8, 0.1, 0.19, 0.0975, 0.125};
    expect_like_reference(
        [&](const Maker& make) {
          const at::Tensor master = make.started({n}, 1), m = make.started({n}, 2);
          const at::Tensor v = make.started({n}, 3).square(), compute = make.empty({n});
          adamw(master, compute, make.started({n}, 4), m, v, step);
          return std::vector<Output>{
              {"master", master}, {"compute", compute}, {"exp_avg", m}, {"exp_avg_sq", v}};
        },
        1e-6, 4e-3);
  }
}

TEST(KernelsTest, SumOfSquaresDoesNotDependOnThreadsAndShowsNonFiniteValues) {
  const at::Tensor x = random_tensor({200001}, 1, at::kFloat);
  const double expected = sum_of_squares(x.to(at::kDouble));
  const int before = at::get_num_threads();
  for_fast_kernels([&](const std::string& name) {
    at::set_num_threads(1);
    const double one = sum_of_squares(x);
    at::set_num_threads(2);
    EXPECT_EQ(one, sum_of_squares(x)) << name;
    EXPECT_NEAR(one, expected, 1e-9 * expected) << name;
    for (double bad : {std::nan(""), HUGE_VAL}) {
      const at::Tensor y = x.clone();
      y.data_ptr<float>()[123456] = static_cast<float>(bad);
      EXPECT_FALSE(std::isfinite(sum_of_squares(y))) << name;
    }
  });
  at::set_num_threads(before);
}

TEST(KernelsTest, NonFiniteActivationsAreNotHidden) {
  for_fast_kernels([&](const std::string& name) {
    const at::Tensor x = at::full({1, 20}, std::nan(""), at::kFloat), y = at::empty_like(x);
    gelu_forward(y, x);
    EXPECT_TRUE(y.isnan().all().item<bool>()) << name;
    const at::Tensor hidden = at::full({1, 4}, HUGE_VAL, at::kFloat);
    const at::Tensor weight = random_tensor({9, 4}, 1, at::kFloat);
    const at::Tensor scratch =
        at::empty({linear_cross_entropy_scratch_bytes(at::kFloat, 1, 4, 9)}, at::kByte);
    const std::vector<int32_t> targets{1}, learned{0};
    EXPECT_FALSE(std::isfinite(
        linear_cross_entropy({}, {}, hidden, weight, targets, learned, {}, scratch).loss))
        << name;
  });
}

// Initial weights must not depend on the machine: not nearly equal, equal.
TEST(KernelsTest, NormalNumbersHaveTheReferencesBits) {
  for (const int64_t count : {1, 15, 16, 1000, 70001}) {
    const CounterRng rng(3, mix64(static_cast<uint64_t>(count)));
    for_fast_kernels([&](const std::string& name) {
      const at::Tensor out = at::full({count}, 7.0f);
      normal(out, 0.02, rng);
      const float* values = out.const_data_ptr<float>();
      for (int64_t i = 0; i < count; ++i)
        ASSERT_EQ(values[i], static_cast<float>(0.02 * rng.normal(static_cast<uint64_t>(i))))
            << name << ", number " << i << " of " << count;
    });
  }
}

}  // namespace
}  // namespace train_sft::ops
