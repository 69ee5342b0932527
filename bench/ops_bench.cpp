// Speeds of the ops at the shapes of two models: the character model of configs/shakespeare_char
// (4 layers, 4 heads, width 128, 12 documents of 64 tokens) and GPT-2 124M (batch 4 x 1024).
//   cmake -B build -DTRAIN_SFT_BENCH=ON && ninja -C build ops_bench
//   build/bench/ops_bench --benchmark_filter='124m.*bf16'
// TRAIN_SFT_CPU=avx2 measures the other instruction set. GFLOP/s or GB/s (memory read and written).
#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/zeros.h>
#include <ATen/ops/zeros_like.h>
#include <benchmark/benchmark.h>

#include <algorithm>
#include <string>
#include <vector>

#include "train_sft/ops/adamw.h"
#include "train_sft/ops/attention.h"
#include "train_sft/ops/cross_entropy.h"
#include "train_sft/ops/dropout.h"
#include "train_sft/ops/gelu.h"
#include "train_sft/ops/kernels.h"
#include "train_sft/ops/layer_norm.h"
#include "train_sft/ops/linear.h"

namespace train_sft::ops {
namespace {

struct Model {
  std::string name;
  int64_t documents, length, heads, width, vocab;
  int64_t tokens() const { return documents * length; }
};
const Model kModels[] = {{"char", 12, 64, 4, 128, 65}, {"124m", 4, 1024, 12, 768, 50257}};

at::Tensor filled(std::vector<int64_t> sizes, at::ScalarType dtype) {
  return at::empty(sizes, at::kFloat).uniform_(-1, 1).to(dtype);
}

void flops(benchmark::State& state, double count) {
  state.counters["GFLOP/s"] =
      benchmark::Counter(count * 1e-9 * state.iterations(), benchmark::Counter::kIsRate);
}
void bytes(benchmark::State& state, double count) {
  state.counters["GB/s"] =
      benchmark::Counter(count * 1e-9 * state.iterations(), benchmark::Counter::kIsRate);
}

void linear(benchmark::State& state, const Model& model, at::ScalarType dtype, int64_t factor) {
  const int64_t N = model.tokens(), I = model.width, O = factor * model.width;
  const at::Tensor x = filled({N, I}, dtype), w = filled({I, O}, dtype), y = filled({N, O}, dtype);
  const at::Tensor b = filled({O}, dtype), dw = at::zeros({I, O}, at::kFloat);
  for (auto _ : state) {
    linear_forward(y, x, w, b, WeightLayout::in_out);
    linear_backward_input(x, y, w, WeightLayout::in_out);
    linear_backward_weight(dw, x, y, WeightLayout::in_out);
  }
  flops(state, 6.0 * N * I * O);
}

// One token, as in decoding: what counts is how fast the weight is read.
void one_row(benchmark::State& state, const Model& model, at::ScalarType dtype,
             WeightLayout layout) {
  const int64_t I = model.width, O = model.vocab;
  const bool in_out = layout == WeightLayout::in_out;
  const at::Tensor x = filled({1, I}, dtype), y = filled({1, O}, dtype);
  const at::Tensor w = filled(in_out ? std::vector{I, O} : std::vector{O, I}, dtype);
  for (auto _ : state) linear_forward(y, x, w, {}, layout);
  bytes(state, w.nbytes());
}

void attention(benchmark::State& state, const Model& model, at::ScalarType dtype, bool backward) {
  const AttentionShape shape{model.heads, model.heads, model.width / model.heads};
  const int64_t N = model.tokens();
  std::vector<int32_t> cu_seqlens;
  for (int64_t d = 0; d <= model.documents; ++d) {
    cu_seqlens.push_back(static_cast<int32_t>(d * model.length));
  }
  const at::Tensor qkv = filled({N, shape.qkv_width()}, dtype);
  const at::Tensor out = filled({N, shape.out_width()}, dtype), grad = at::empty_like(qkv);
  const at::Tensor lse = at::zeros({model.heads, N}, at::kFloat),
                   grad_out = filled({N, model.width}, dtype);
  attention_forward(out, lse, qkv, cu_seqlens, shape);
  for (auto _ : state) {
    if (backward) {
      attention_backward(grad, grad_out, out, lse, qkv, cu_seqlens, shape);
    } else {
      attention_forward(out, lse, qkv, cu_seqlens, shape);
    }
  }
  const double pairs = 0.5 * model.documents * model.length * model.length;
  flops(state, pairs * 2 * model.width * (backward ? 5 : 2));
}

void layer_norm(benchmark::State& state, const Model& model, at::ScalarType dtype, bool backward) {
  const int64_t N = model.tokens(), C = model.width;
  const at::Tensor x = filled({N, C}, dtype), delta = filled({N, C}, dtype),
                   sum = filled({N, C}, dtype);
  const at::Tensor y = filled({N, C}, dtype), w = filled({C}, dtype), b = filled({C}, dtype);
  const at::Tensor mean = at::zeros({N}, at::kFloat), rstd = at::zeros({N}, at::kFloat);
  const at::Tensor dw = at::zeros({C}, at::kFloat), db = at::zeros({C}, at::kFloat);
  for (auto _ : state) {
    if (backward) {
      layer_norm_backward(x, dw, db, y, sum, mean, rstd, w);
    } else {
      layer_norm_forward(y, sum, mean, rstd, x, delta, w, b, 1e-5);
    }
  }
  bytes(state, 4.0 * x.nbytes());
}

void gelu(benchmark::State& state, const Model& model, at::ScalarType dtype, bool backward) {
  const at::Tensor x = filled({model.tokens(), 4 * model.width}, dtype),
                   y = filled(x.sizes().vec(), dtype);
  const at::Tensor dx = at::empty_like(x);
  for (auto _ : state) {
    if (backward) {
      gelu_backward(dx, y, x);
    } else {
      gelu_forward(y, x);
    }
  }
  bytes(state, (backward ? 3.0 : 2.0) * x.nbytes());
}

void dropout(benchmark::State& state, const Model& model, at::ScalarType dtype) {
  const at::Tensor x = filled({model.tokens(), model.width}, dtype);
  const std::vector<uint64_t> keys(model.tokens(), 12345);
  for (auto _ : state) ops::dropout(x, x, keys, 1, 0.1);
  bytes(state, 2.0 * x.nbytes());
}

void cross_entropy(benchmark::State& state, const Model& model, at::ScalarType dtype) {
  const int64_t N = model.tokens(), C = model.width, V = model.vocab;
  const at::Tensor hidden = filled({N, C}, dtype), weight = filled({V, C}, dtype);
  const at::Tensor dw = at::zeros({V, C}, at::kFloat), dx = at::empty_like(hidden);
  std::vector<int32_t> targets(N), learned(N);
  for (int64_t n = 0; n < N; ++n) {
    targets[n] = static_cast<int32_t>(n * 31 % V);
    learned[n] = static_cast<int32_t>(n);
  }
  const int64_t chunk = std::min<int64_t>(N, 1024);
  const at::Tensor scratch =
      at::empty({linear_cross_entropy_scratch_bytes(dtype, chunk, C, V)}, at::kByte);
  for (auto _ : state) {
    linear_cross_entropy(dx, dw, hidden, weight, targets, learned, {}, scratch);
  }
  flops(state, 6.0 * N * C * V);
}

void update(benchmark::State& state, at::ScalarType dtype) {
  const int64_t n = 1 << 24;
  const at::Tensor p = filled({n}, at::kFloat), g = filled({n}, at::kFloat), m = at::zeros_like(p);
  const at::Tensor v = at::zeros_like(p),
                   c = dtype == at::kFloat ? at::Tensor() : filled({n}, dtype);
  const AdamWStep step{3e-4, 0.9, 0.95, 1e-8, 0.1, 0.1, 0.05, 1.0};
  for (auto _ : state) {
    adamw(p, c, g, m, v, step);
    benchmark::DoNotOptimize(sum_of_squares(g));
  }
  bytes(state, (8.0 * 4 + (c.defined() ? 2 : 0)) * n);
}

template <typename F>
void add(const std::string& name, F&& f) {
  benchmark::RegisterBenchmark(name.c_str(), std::forward<F>(f))
      ->UseRealTime()
      ->Unit(benchmark::kMicrosecond);
}

void register_all() {
  for (at::ScalarType dtype : {at::kFloat, at::kBFloat16}) {
    const std::string suffix = dtype == at::kFloat ? "/fp32" : "/bf16";
    for (const Model& m : kModels) {
      auto on = [&](const char* op, auto f, auto... arguments) {
        add(m.name + "/" + op + suffix,
            [=, &m](benchmark::State& s) { f(s, m, dtype, arguments...); });
      };
      on("linear_1x", linear, 1);
      on("linear_3x", linear, 3);
      on("linear_4x", linear, 4);
      on("one_row_in_out", one_row, WeightLayout::in_out);
      on("one_row_out_in", one_row, WeightLayout::out_in);
      on("attention_forward", attention, false);
      on("attention_backward", attention, true);
      on("layer_norm_forward", layer_norm, false);
      on("layer_norm_backward", layer_norm, true);
      on("gelu_forward", gelu, false);
      on("gelu_backward", gelu, true);
      on("dropout", dropout);
      on("cross_entropy", cross_entropy);
    }
    add("adamw_and_norm" + suffix, [=](benchmark::State& s) { update(s, dtype); });
  }
}

}  // namespace
}  // namespace train_sft::ops

int main(int argc, char** argv) {
  train_sft::ops::register_all();
  benchmark::Initialize(&argc, argv);
  benchmark::AddCustomContext("kernels", train_sft::ops::kernels_name(train_sft::ops::kernels()));
  benchmark::RunSpecifiedBenchmarks();
  return 0;
}
