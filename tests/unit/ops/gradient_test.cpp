// Every backward against central differences of its forward, in double (the references).
#include "train_sft/ops/attention.h"
#include "train_sft/ops/cross_entropy.h"
#include "train_sft/ops/dropout.h"
#include "train_sft/ops/embedding.h"
#include "train_sft/ops/gelu.h"
#include "train_sft/ops/layer_norm.h"
#include "train_sft/ops/linear.h"
#include "train_sft/ops/qk_norm.h"
#include "train_sft/ops/rms_norm.h"
#include "train_sft/ops/rope.h"
#include "train_sft/ops/swiglu.h"
#include "unit/ops/check.h"

namespace train_sft::ops {
namespace {

TEST(GradientTest, Embedding) {
  at::Tensor table = random_tensor({5, 3}, 1), position_table = random_tensor({4, 3}, 2);
  const std::vector<int32_t> tokens{4, 0, 4, 2, 4}, positions{0, 1, 2, 0, 1};
  const at::Tensor out = at::empty({5, 3}, at::kDouble), up = random_tensor({5, 3}, 3);
  auto loss = [&] {
    embedding_forward(out, table, position_table, tokens, positions);
    return weighted_sum(out, up);
  };
  const at::Tensor grad = at::zeros_like(table), grad_position = at::zeros_like(position_table);
  embedding_backward(grad, grad_position, up, tokens, positions);
  expect_gradient(table, grad, loss, "table");
  expect_gradient(position_table, grad_position, loss, "position_table");
}

TEST(GradientTest, LayerNormWithResidual) {
  const int64_t N = 3, C = 5;
  at::Tensor residual = random_tensor({N, C}, 1), delta = random_tensor({N, C}, 2);
  at::Tensor weight = random_tensor({C}, 3), bias = random_tensor({C}, 4);
  const at::Tensor up = random_tensor({N, C}, 5), up_residual = random_tensor({N, C}, 6);
  const at::Tensor normed = at::empty({N, C}, at::kDouble), sum = at::empty_like(normed);
  const at::Tensor mean = at::empty({N}, at::kDouble), rstd = at::empty_like(mean);
  auto loss = [&] {
    layer_norm_forward(normed, sum, mean, rstd, residual, delta, weight, bias, 1e-5);
    return weighted_sum(normed, up) + weighted_sum(sum, up_residual);
  };
  loss();
  const at::Tensor grad = up_residual.clone(), dw = at::zeros_like(weight),
                   db = at::zeros_like(bias);
  layer_norm_backward(grad, dw, db, up, sum, mean, rstd, weight);
  expect_gradient(residual, grad, loss, "residual");
  expect_gradient(delta, grad, loss, "delta");
  expect_gradient(weight, dw, loss, "weight");
  expect_gradient(bias, db, loss, "bias");
}

TEST(GradientTest, RmsNormWithResidual) {
  const int64_t N = 3, C = 5;
  at::Tensor residual = random_tensor({N, C}, 1), delta = random_tensor({N, C}, 2);
  at::Tensor weight = random_tensor({C}, 3);
  const at::Tensor up = random_tensor({N, C}, 5), up_residual = random_tensor({N, C}, 6);
  const at::Tensor normed = at::empty({N, C}, at::kDouble), sum = at::empty_like(normed);
  const at::Tensor rstd = at::empty({N}, at::kDouble);
  auto loss = [&] {
    rms_norm_forward(normed, sum, rstd, residual, delta, weight, 1e-5);
    return weighted_sum(normed, up) + weighted_sum(sum, up_residual);
  };
  loss();
  const at::Tensor grad = up_residual.clone(), dw = at::zeros_like(weight);
  rms_norm_backward(grad, dw, up, sum, rstd, weight);
  expect_gradient(residual, grad, loss, "residual");
  expect_gradient(delta, grad, loss, "delta");
  expect_gradient(weight, dw, loss, "weight");
}

TEST(GradientTest, QkNorm) {
  const AttentionShape shape{2, 1, 3};
  const int64_t N = 3, D = shape.head_dim;
  at::Tensor qkv = random_tensor({N, shape.qkv_width()}, 1);
  at::Tensor wq = random_tensor({D}, 2), wk = random_tensor({D}, 3);
  const at::Tensor up = random_tensor({N, shape.qkv_width()}, 4);
  const at::Tensor input = at::empty({N, 3 * D}, at::kDouble),
                   rstd = at::empty({N, 3}, at::kDouble);
  auto loss = [&] {
    const at::Tensor out = qkv.clone();
    qk_norm_forward(out, input, rstd, wq, wk, 1e-5, shape);
    return weighted_sum(out, up);
  };
  loss();
  const at::Tensor grad = up.clone(), dq = at::zeros_like(wq), dk = at::zeros_like(wk);
  qk_norm_backward(grad, dq, dk, input, rstd, wq, wk, shape);
  expect_gradient(qkv, grad, loss, "qkv");
  expect_gradient(wq, dq, loss, "q_weight");
  expect_gradient(wk, dk, loss, "k_weight");
}

TEST(GradientTest, LinearInBothLayouts) {
  const int64_t N = 4, I = 3, O = 5;
  for (WeightLayout layout : {WeightLayout::in_out, WeightLayout::out_in}) {
    at::Tensor input = random_tensor({N, I}, 1), bias = random_tensor({O}, 3);
    at::Tensor weight =
        layout == WeightLayout::in_out ? random_tensor({I, O}, 2) : random_tensor({O, I}, 2);
    const at::Tensor out = at::empty({N, O}, at::kDouble), up = random_tensor({N, O}, 4);
    auto loss = [&] {
      linear_forward(out, input, weight, bias, layout);
      return weighted_sum(out, up);
    };
    const at::Tensor dx = at::zeros_like(input), dw = at::zeros_like(weight),
                     db = at::zeros_like(bias);
    linear_backward_input(dx, up, weight, layout);
    linear_backward_weight(dw, input, up, layout);
    linear_backward_bias(db, up);
    expect_gradient(input, dx, loss, "input");
    expect_gradient(weight, dw, loss, "weight");
    expect_gradient(bias, db, loss, "bias");
  }
}

TEST(GradientTest, RopeThenAttentionWithGroupedQueries) {
  const AttentionShape shape{4, 2, 6};
  const std::vector<int32_t> cu_seqlens{0, 3, 4, 4, 7}, positions{0, 1, 2, 0, 0, 1, 2};
  const int64_t N = 7;
  at::Tensor qkv = random_tensor({N, shape.qkv_width()}, 1);
  const at::Tensor out = at::empty({N, shape.out_width()}, at::kDouble);
  const at::Tensor lse = at::empty({4, N}, at::kDouble), up = random_tensor(out.sizes().vec(), 2);
  const at::Tensor cosines = at::empty({4, 3}, at::kDouble), sines = at::empty_like(cosines);
  rope_table(cosines, sines, 10000.0);
  at::Tensor turned;
  auto loss = [&] {
    turned = qkv.clone();
    rope_forward(turned, cosines, sines, positions, shape);
    attention_forward(out, lse, turned, cu_seqlens, shape);
    return weighted_sum(out, up);
  };
  loss();
  const at::Tensor grad = at::full_like(qkv, 7.0);
  attention_backward(grad, up, out, lse, turned, cu_seqlens, shape);
  rope_backward(grad, cosines, sines, positions, shape);
  expect_gradient(qkv, grad, loss, "qkv");
}

TEST(GradientTest, GeluAndSwiglu) {
  at::Tensor x = random_tensor({3, 8}, 1).mul_(4);
  const at::Tensor up = random_tensor({3, 8}, 2), out = at::empty_like(x), dx = at::empty_like(x);
  gelu_backward(dx, up, x);
  expect_gradient(
      x, dx,
      [&] {
        gelu_forward(out, x);
        return weighted_sum(out, up);
      },
      "gelu");
  const at::Tensor up_half = random_tensor({3, 4}, 3), half = at::empty_like(up_half);
  swiglu_backward(dx, up_half, x);
  expect_gradient(
      x, dx,
      [&] {
        swiglu_forward(half, x);
        return weighted_sum(half, up_half);
      },
      "swiglu");
}

TEST(GradientTest, Dropout) {
  at::Tensor x = random_tensor({3, 8}, 1);
  const std::vector<uint64_t> keys{11, 12, 13};
  const at::Tensor up = random_tensor({3, 8}, 2), out = at::empty_like(x), dx = at::empty_like(x);
  dropout(dx, up, keys, 3, 0.4);
  expect_gradient(
      x, dx,
      [&] {
        dropout(out, x, keys, 3, 0.4);
        return weighted_sum(out, up);
      },
      "dropout");
}

TEST(GradientTest, LinearCrossEntropyInUnevenChunks) {
  const int64_t N = 7, C = 3, V = 5;
  at::Tensor hidden = random_tensor({N, C}, 1), weight = random_tensor({V, C}, 2);
  const std::vector<int32_t> targets{1, 4, 0, 2, 2, 3, -1}, learned{1, 2, 4, 5};
  const std::vector<float> weights{1.0f, 0.5f, 2.0f, 0.25f};
  const at::Tensor scratch =
      at::empty({linear_cross_entropy_scratch_bytes(at::kDouble, 3, C, V)}, at::kByte);
  auto loss = [&] {
    return linear_cross_entropy({}, {}, hidden, weight, targets, learned, weights, scratch).loss;
  };
  const at::Tensor dx = at::full_like(hidden, 7.0), dw = at::zeros_like(weight);
  const CrossEntropySums sums =
      linear_cross_entropy(dx, dw, hidden, weight, targets, learned, weights, scratch);
  EXPECT_EQ(sums.loss, loss());
  EXPECT_EQ(sums.weight, 3.75);
  EXPECT_EQ(sums.tokens, 4);
  expect_gradient(hidden, dx, loss, "hidden");
  expect_gradient(weight, dw, loss, "weight");
}

}  // namespace
}  // namespace train_sft::ops
