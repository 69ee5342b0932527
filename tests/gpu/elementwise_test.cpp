// Each kernel on rows and elements against the CPU's op on the same numbers.
#include <ATen/ops/arange.h>

#include <tuple>

#include "gpu.h"
#include "train_sft/ops/dropout.h"
#include "train_sft/ops/embedding.h"
#include "train_sft/ops/gelu.h"
#include "train_sft/ops/layer_norm.h"
#include "train_sft/ops/linear.h"
#include "train_sft/ops/qk_norm.h"
#include "train_sft/ops/rms_norm.h"
#include "train_sft/ops/rope.h"
#include "train_sft/ops/swiglu.h"

namespace train_sft::ops {
namespace {

// dtype, rows, columns: multiples of 8 and not, one vector a lane to more than registers hold.
using Case = std::tuple<at::ScalarType, int64_t, int64_t>;
class Rows : public GpuTestWith<Case> {
 protected:
  at::ScalarType type() const { return std::get<0>(GetParam()); }
  int64_t N() const { return std::get<1>(GetParam()); }
  int64_t C() const { return std::get<2>(GetParam()); }
  at::Tensor matrix(double scale = 1) const { return normal({N(), C()}, type(), scale); }
  at::Tensor vector() const { return normal({C()}, type()); }
  double limit() const { return rounding(type()); }
};

TEST_P(Rows, LayerNorm) {
  const at::Tensor residual = matrix(2), delta = matrix(), weight = vector(), bias = vector();
  const at::Tensor normed = at::empty_like(residual), sum = at::empty_like(residual);
  const at::Tensor mean = at::empty({N()}), rstd = at::empty({N()});
  for (bool added : {true, false}) {
    const at::Tensor d = added ? delta : at::Tensor(), s = added ? sum : at::Tensor();
    layer_norm_forward(normed, s, mean, rstd, residual, d, weight, bias, 1e-5);
    const at::Tensor y = like(normed), r = on_gpu(residual), m = like(mean), v = like(rstd);
    table().layer_norm_forward(y, added ? r : at::Tensor(), m, v, r, on_gpu(d), on_gpu(weight),
                               on_gpu(bias), 1e-5);  // residual_out over residual
    EXPECT_CLOSE(y, normed, limit());
    EXPECT_CLOSE(m, mean, 1e-4);
    EXPECT_CLOSE(v, rstd, 1e-5);
    if (added) {
      EXPECT_SAME(r, sum);
    }
  }
  const at::Tensor grad = matrix(), start = matrix();
  for (bool accumulate : {true, false}) {
    const at::Tensor dx = start.clone(), dw = normal({C()}, at::kFloat),
                     db = normal({C()}, at::kFloat);
    const at::Tensor x = on_gpu(dx), w = on_gpu(dw), b = on_gpu(db);
    layer_norm_backward(dx, dw, db, grad, residual, mean, rstd, weight, accumulate);
    table().layer_norm_backward(x, w, b, on_gpu(grad), on_gpu(residual), on_gpu(mean), on_gpu(rstd),
                                on_gpu(weight), accumulate);
    EXPECT_CLOSE(x, dx, limit());
    EXPECT_CLOSE(w, dw, 1e-5);
    EXPECT_CLOSE(b, db, 1e-5);
  }
}

TEST_P(Rows, RmsNorm) {
  const at::Tensor residual = matrix(2), delta = matrix(), weight = vector();
  const at::Tensor normed = at::empty_like(residual), sum = at::empty_like(residual);
  const at::Tensor rstd = at::empty({N()});
  rms_norm_forward(normed, sum, rstd, residual, delta, weight, 1e-6);
  const at::Tensor y = like(normed), s = like(sum), v = like(rstd);
  table().rms_norm_forward(y, s, v, on_gpu(residual), on_gpu(delta), on_gpu(weight), 1e-6);
  EXPECT_CLOSE(y, normed, limit());
  EXPECT_CLOSE(v, rstd, 1e-5);
  EXPECT_SAME(s, sum);
  const at::Tensor grad = matrix(), dx = matrix(), dw = at::zeros({C()});
  const at::Tensor x = on_gpu(dx), w = on_gpu(dw), frozen = on_gpu(dx);
  rms_norm_backward(dx, dw, grad, sum, rstd, weight, true);
  const auto run = [&](const at::Tensor& to, const at::Tensor& of_weight) {
    table().rms_norm_backward(to, of_weight, on_gpu(grad), s, v, on_gpu(weight), true);
  };
  run(x, w);
  run(frozen, {});
  EXPECT_CLOSE(x, dx, limit());
  EXPECT_CLOSE(w, dw, 1e-5);
  EXPECT_SAME(frozen, on_cpu(x));
}

TEST_P(Rows, Activations) {
  const at::Tensor input = matrix(3), grad = matrix(), out = at::empty_like(input);
  gelu_forward(out, input);
  const at::Tensor y = like(out);
  table().gelu_forward(y, on_gpu(input));
  EXPECT_CLOSE(y, out, limit());
  gelu_backward(out, grad, input);
  const at::Tensor dy = on_gpu(grad);
  table().gelu_backward(dy, dy, on_gpu(input));
  EXPECT_CLOSE(dy, out, limit());
  const at::Tensor gate_up = normal({N(), 2 * C()}, type(), 3), grads = at::empty_like(gate_up);
  swiglu_forward(out, gate_up);
  table().swiglu_forward(y, on_gpu(gate_up));
  EXPECT_CLOSE(y, out, limit());
  swiglu_backward(grads, grad, gate_up);
  const at::Tensor over = on_gpu(gate_up);
  table().swiglu_backward(over, on_gpu(grad), over);
  EXPECT_CLOSE(over, grads, limit());
}

TEST_P(Rows, DropoutHasTheSameMask) {
  std::vector<uint64_t> keys(N());
  for (size_t n = 0; n < keys.size(); ++n) keys[n] = 0x9E3779B97F4A7C15u * (n + 1);
  const at::Tensor input = matrix(), out = at::empty_like(input), y = like(input);
  dropout(out, input, keys, 7, 0.3);
  const Uploaded<uint64_t> there(keys);
  table().dropout(y, on_gpu(input), there.data(), 7, 0.3);
  EXPECT_SAME(y, out);
}

TEST_P(Rows, BiasGradient) {
  const at::Tensor grad = matrix(), sums = normal({C()}, at::kFloat), there = on_gpu(sums);
  linear_backward_bias(sums, grad);
  table().linear_backward_bias(there, on_gpu(grad));
  EXPECT_CLOSE(there, sums, 1e-5);
}

TEST_P(Rows, Embedding) {
  const int64_t V = 37;
  const at::Tensor words = normal({V, C()}, type()), places = normal({V, C()}, type());
  std::vector<int32_t> tokens(N()), positions(N()), order(N());
  for (int64_t n = 0; n < N(); ++n) {
    tokens[n] = n % 3 == 0 ? 5 : static_cast<int32_t>(n * n % V);  // one token is frequent
    positions[n] = static_cast<int32_t>(n % V);
    order[n] = static_cast<int32_t>(n);
  }
  std::stable_sort(order.begin(), order.end(), [&](int a, int b) { return tokens[a] < tokens[b]; });
  const at::Tensor out = at::empty({N(), C()}, type()), y = like(out);
  embedding_forward(out, words, places, tokens, positions);
  const Uploaded<int32_t> ids(tokens), at_positions(positions), sorted(order);
  table().embedding_forward(y, on_gpu(words), on_gpu(places), ids.data(), at_positions.data());
  EXPECT_SAME(y, out);
  const at::Tensor grad = matrix(), sums = normal({V, C()}, at::kFloat), there = on_gpu(sums);
  embedding_backward(sums, {}, grad, tokens, positions);
  table().embedding_backward(there, on_gpu(grad), ids.data(), sorted.data());
  EXPECT_CLOSE(there, sums, 1e-6);
}

TEST_P(Rows, GatherAndScatter) {
  std::vector<int32_t> rows;
  for (int64_t n = 1; n < N(); n += 3) rows.push_back(static_cast<int32_t>(n));
  const auto L = static_cast<int64_t>(rows.size());
  const Uploaded<int32_t> there(rows);
  const at::Tensor all = matrix(), few = unwritten({L, C()}, type());
  table().gather_rows(few, on_gpu(all), there.data(), L);
  const at::Tensor expected = all.index_select(0, at::tensor(rows));
  EXPECT_SAME(few, expected);
  const at::Tensor back = like(all);
  table().scatter_rows(back, few, there.data(), L);
  EXPECT_SAME(back, at::zeros_like(all).index_copy(0, at::tensor(rows).to(at::kLong), expected));
}

INSTANTIATE_TEST_SUITE_P(Shapes, Rows,
                         testing::Combine(testing::Values(at::kBFloat16, at::kFloat),
                                          testing::Values(int64_t{1}, int64_t{515}),
                                          testing::Values(int64_t{8}, int64_t{60}, int64_t{63},
                                                          int64_t{768}, int64_t{2048},
                                                          int64_t{5120})));

// Sites with grouped heads; head sizes that fill registers, and odd ones.
class HeadShapes : public GpuTestWith<std::tuple<at::ScalarType, AttentionShape>> {};

TEST_P(HeadShapes, NormAndRotation) {
  const auto [type, shape] = GetParam();
  const int64_t N = 133, D = shape.head_dim, H = shape.n_head + shape.n_kv_head;
  const at::Tensor qkv = normal({N, shape.qkv_width()}, type), there = on_gpu(qkv);
  const at::Tensor qw = normal({D}, type), kw = normal({D}, type);
  const at::Tensor input = at::empty({N, H * D}, type), rstd = at::empty({N, H});
  const at::Tensor kept = like(input), r = like(rstd);
  qk_norm_forward(qkv, input, rstd, qw, kw, 1e-6, shape);
  table().qk_norm_forward(there, kept, r, on_gpu(qw), on_gpu(kw), 1e-6, shape);
  EXPECT_CLOSE(there, qkv, rounding(type));
  EXPECT_SAME(kept, input);
  EXPECT_CLOSE(r, rstd, 1e-5);
  const at::Tensor grad = normal(qkv.sizes(), type), g = on_gpu(grad);
  const at::Tensor dq = at::zeros({D}), dk = at::zeros({D}), dqs = on_gpu(dq), dks = on_gpu(dk);
  qk_norm_backward(grad, dq, dk, input, rstd, qw, kw, shape);
  table().qk_norm_backward(g, dqs, dks, kept, r, on_gpu(qw), on_gpu(kw), shape);
  EXPECT_CLOSE(g, grad, rounding(type));
  EXPECT_CLOSE(dqs, dq, 1e-5);
  EXPECT_CLOSE(dks, dk, 1e-5);

  std::vector<int32_t> positions(N);
  for (int64_t n = 0; n < N; ++n) positions[n] = static_cast<int32_t>(n * 7 % N);
  const Uploaded<int32_t> where(positions);
  const at::Tensor cosines = at::empty({N, D / 2}), sines = at::empty({N, D / 2});
  rope_table(cosines, sines, 10000);
  for (bool back : {false, true}) {
    at::Tensor x = on_gpu(qkv);
    back ? rope_backward(qkv, cosines, sines, positions, shape)
         : rope_forward(qkv, cosines, sines, positions, shape);
    table().rope(x, on_gpu(cosines), on_gpu(sines), where.data(), shape, back);
    EXPECT_CLOSE(x, qkv, rounding(type));
  }
}

INSTANTIATE_TEST_SUITE_P(
    Shapes, HeadShapes,
    testing::Combine(testing::Values(at::kBFloat16, at::kFloat),
                     testing::Values(AttentionShape{4, 4, 64}, AttentionShape{6, 2, 128},
                                     AttentionShape{3, 1, 256}, AttentionShape{2, 1, 10})));

}  // namespace
}  // namespace train_sft::ops
