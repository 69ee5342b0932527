// The least time one training step could take on this machine: every distinct matrix product and
// attention of the step timed alone, with our kernels, ATen's and oneDNN's, the fastest counted;
// beside it the machine's plain peak of fused multiply-adds and its memory bandwidth.
//   cmake -B build -DTRAIN_SFT_BENCH=ON && ninja -C build roofline
//   build/bench/roofline --n_layer 12 --n_head 12 --n_embd 768 --batch 4 --length 1024
// One JSON object on stdout.
#include <ATen/Parallel.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/_scaled_dot_product_flash_attention_for_cpu.h>
#include <ATen/ops/_scaled_dot_product_flash_attention_for_cpu_backward.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/mkldnn_linear.h>
#include <ATen/ops/mm.h>
#include <ATen/ops/zeros.h>
#include <immintrin.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <functional>
#include <string>
#include <thread>
#include <vector>

#include "train_sft/base/json.h"
#include "train_sft/ops/attention.h"
#include "train_sft/ops/kernels.h"
#include "train_sft/ops/linear.h"

namespace train_sft::ops {
namespace {

using Clock = std::chrono::steady_clock;
constexpr double kLeastSeconds = 0.25;
constexpr int kLeastRuns = 5, kMostRuns = 1000;

struct Shape {
  int64_t n_layer = 12, n_head = 12, n_embd = 768, vocab = 50304, batch = 4, length = 1024;
  std::string precision = "fp32";
  int threads = 2;
  int64_t tokens() const { return batch * length; }
  at::ScalarType dtype() const { return precision == "bf16" ? at::kBFloat16 : at::kFloat; }
};

using Work = std::function<void()>;

// Medians of the runs, after one that warms the caches. The works take turns: a machine's
// neighbours slow them all, and the fastest is the fastest, not the one that was alone. 0: none, or
// not possible.
std::vector<double> seconds(const std::vector<Work>& works) {
  std::vector<std::vector<double>> runs(works.size());
  const auto run = [&](size_t i) {
    if (!works[i]) return 0.0;
    const auto begin = Clock::now();
    works[i]();
    return std::chrono::duration<double>(Clock::now() - begin).count();
  };
  for (size_t i = 0; i < works.size(); ++i) run(i);
  double spent = 0;
  const double least = kLeastSeconds * static_cast<double>(works.size());
  for (int round = 0; (spent < least || round < kLeastRuns) && round < kMostRuns; ++round) {
    for (size_t i = 0; i < works.size(); ++i) {
      runs[i].push_back(run(i));
      spent += runs[i].back();
    }
  }
  std::vector<double> medians;
  for (std::vector<double>& each : runs) {
    const auto middle = each.begin() + static_cast<std::ptrdiff_t>(each.size() / 2);
    std::nth_element(each.begin(), middle, each.end());
    medians.push_back(*middle);
  }
  return medians;
}

at::Tensor filled(std::vector<int64_t> sizes, at::ScalarType dtype) {
  return at::empty(sizes, at::kFloat).uniform_(-1, 1).to(dtype);
}

struct Timed {
  std::string name;
  int64_t count = 0;                      // times a step
  double flops = 0;                       // of one
  double ours = 0, aten = 0, onednn = 0;  // seconds; 0: cannot
  double best() const {
    double least = ours;
    for (const double other : {aten, onednn})
      if (other > 0) least = std::min(least, other);
    return least;
  }
};

// Its operands as oneDNN likes them, whatever it took to bring them there; none where it cannot.
Work onednn_product(const at::Tensor& a, const at::Tensor& b) {
  const at::Tensor weight = b.t().contiguous(), bias = at::zeros({weight.size(0)}, a.options());
  try {
    const at::Tensor input = a.contiguous().to_mkldnn();
    at::mkldnn_linear(input, weight, bias);
    return [=] { at::mkldnn_linear(input, weight, bias); };
  } catch (const std::exception&) {
    return {};
  }
}

// The three products of a linear layer of `count` a step, weights [in, out] (or [out, in]).
void add_linear(std::vector<Timed>& all, const std::string& name, const Shape& s, int64_t in,
                int64_t out, int64_t count, WeightLayout layout) {
  const int64_t N = s.tokens();
  const bool in_out = layout == WeightLayout::in_out;
  const at::Tensor x = filled({N, in}, s.dtype()), y = filled({N, out}, s.dtype());
  const at::Tensor w = filled(in_out ? std::vector{in, out} : std::vector{out, in}, s.dtype());
  const at::Tensor dw = at::zeros(w.sizes(), at::kFloat);
  const at::Tensor w_math = in_out ? w : w.t();  // [in, out]
  const double flops = 2.0 * static_cast<double>(N * in) * static_cast<double>(out);
  const at::Tensor none;
  const auto add = [&](const char* what, const Work& ours, const at::Tensor& a,
                       const at::Tensor& b) {
    const auto found = seconds({ours, [&] { at::mm(a, b); }, onednn_product(a, b)});
    all.push_back({name + what, count, flops, found[0], found[1], found[2]});
  };
  add(
      " forward", [&] { linear_forward(y, x, w, none, layout); }, x, w_math);
  add(
      " backward to the input", [&] { linear_backward_input(x, y, w, layout); }, y, w_math.t());
  // Only ours adds to a float32 gradient, as training needs; the others merely multiply.
  add(
      " backward to the weight", [&] { linear_backward_weight(dw, x, y, layout); },
      in_out ? x.t() : y.t(), in_out ? y : x);
}

void add_attention(std::vector<Timed>& all, const Shape& s) {
  const int64_t N = s.tokens(), D = s.n_embd / s.n_head;
  const AttentionShape shape{s.n_head, s.n_head, D};
  std::vector<int32_t> cu_seqlens;
  for (int64_t row = 0; row <= s.batch; ++row)
    cu_seqlens.push_back(static_cast<int32_t>(row * s.length));
  const at::Tensor qkv = filled({N, 3 * s.n_embd}, s.dtype());
  const at::Tensor out = at::empty({N, s.n_embd}, s.dtype()),
                   grad_out = filled({N, s.n_embd}, s.dtype());
  const at::Tensor lse = at::empty({s.n_head, N}, at::kFloat), grad = at::empty_like(qkv);
  const auto heads = [&](const at::Tensor& t) {
    return t.reshape({s.batch, s.length, s.n_head, D}).transpose(1, 2);
  };
  const at::Tensor q = heads(qkv.narrow(1, 0, s.n_embd)),
                   k = heads(qkv.narrow(1, s.n_embd, s.n_embd)),
                   v = heads(qkv.narrow(1, 2 * s.n_embd, s.n_embd)), g = heads(grad_out);
  const auto [their_out, their_lse] =
      at::_scaled_dot_product_flash_attention_for_cpu(q, k, v, 0.0, true);
  // Scores below the diagonal only: half of T².
  const double product =
      static_cast<double>(s.batch * s.length * s.length) * static_cast<double>(s.n_embd);
  const auto add = [&](const char* name, double flops, const Work& ours, const Work& aten) {
    const auto found = seconds({ours, aten});
    all.push_back({name, s.n_layer, flops, found[0], found[1]});
  };
  add(
      "attention forward", 2 * product,
      [&] { attention_forward(out, lse, qkv, cu_seqlens, shape); },
      [&] { at::_scaled_dot_product_flash_attention_for_cpu(q, k, v, 0.0, true); });
  add(
      "attention backward", 5 * product,
      [&] { attention_backward(grad, grad_out, out, lse, qkv, cu_seqlens, shape); },
      [&] {
        at::_scaled_dot_product_flash_attention_for_cpu_backward(g, q, k, v, their_out, their_lse,
                                                                 0.0, true);
      });
}

// Sixteen independent chains of fused multiply-adds hide their latency; returns multiply-adds × 2.
constexpr int64_t kRounds = 20'000'000;

__attribute__((target("avx2,fma"))) double peak_avx2(float* sink) {
  __m256 sums[12];
  for (auto& sum : sums) sum = _mm256_setzero_ps();
  const __m256 a = _mm256_set1_ps(1.0001f), b = _mm256_set1_ps(0.5f);
  for (int64_t i = 0; i < kRounds; ++i) {
#pragma GCC unroll 12
    for (auto& sum : sums) sum = _mm256_fmadd_ps(a, b, sum);
  }
  for (auto& sum : sums) _mm256_storeu_ps(sink, _mm256_add_ps(_mm256_loadu_ps(sink), sum));
  return 2.0 * 8 * 12 * kRounds;
}

__attribute__((target("avx512f"))) double peak_avx512(float* sink) {
  __m512 sums[24];
  for (auto& sum : sums) sum = _mm512_setzero_ps();
  const __m512 a = _mm512_set1_ps(1.0001f), b = _mm512_set1_ps(0.5f);
  for (int64_t i = 0; i < kRounds; ++i) {
#pragma GCC unroll 24
    for (auto& sum : sums) sum = _mm512_fmadd_ps(a, b, sum);
  }
  for (auto& sum : sums) _mm512_storeu_ps(sink, _mm512_add_ps(_mm512_loadu_ps(sink), sum));
  return 2.0 * 16 * 24 * kRounds;
}

__attribute__((target("avx512f,avx512bf16"))) double peak_bf16(float* sink) {
  __m512 sums[24];
  for (auto& sum : sums) sum = _mm512_setzero_ps();
  const __m512bh a = (__m512bh)_mm512_set1_epi16(0x3f80), b = a;
  for (int64_t i = 0; i < kRounds; ++i) {
#pragma GCC unroll 24
    for (auto& sum : sums) sum = _mm512_dpbf16_ps(sum, a, b);
  }
  for (auto& sum : sums) _mm512_storeu_ps(sink, _mm512_add_ps(_mm512_loadu_ps(sink), sum));
  return 2.0 * 32 * 24 * kRounds;
}

// In operations a second, on all threads at once.
double peak(int threads, double (*work)(float*)) {
  std::vector<std::thread> team;
  std::vector<double> counts(static_cast<size_t>(threads));
  alignas(64) static thread_local float sink[16];
  const auto begin = Clock::now();
  for (int t = 0; t < threads; ++t)
    team.emplace_back([&, t] { counts[static_cast<size_t>(t)] = work(sink); });
  for (auto& thread : team) thread.join();
  double sum = 0;
  for (const double count : counts) sum += count;
  return sum / std::chrono::duration<double>(Clock::now() - begin).count();
}

__attribute__((target("avx2"))) void read_all(const char* begin, const char* end, char* sink) {
  __m256i sums[4] = {};
  for (; begin < end; begin += 128)
    for (int i = 0; i < 4; ++i)
      sums[i] = _mm256_xor_si256(
          sums[i], _mm256_load_si256(reinterpret_cast<const __m256i*>(begin + 32 * i)));
  for (int i = 1; i < 4; ++i) sums[0] = _mm256_xor_si256(sums[0], sums[i]);
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(sink), sums[0]);
}

// Bytes a second that all threads together read from a block far larger than the caches.
double bandwidth(int threads) {
  const int64_t bytes = int64_t{1} << 30;
  const at::Tensor block = at::empty({bytes}, at::kByte).fill_(1);
  const char* data = static_cast<const char*>(block.data_ptr());
  const Work read = [&] {
    std::vector<std::thread> team;
    const int64_t part = bytes / threads / 128 * 128;
    for (int t = 0; t < threads; ++t)
      team.emplace_back([=] {
        alignas(32) char sink[32];
        read_all(data + t * part, data + (t + 1) * part, sink);
        asm volatile("" ::"r"(sink) : "memory");
      });
    for (auto& thread : team) thread.join();
  };
  return static_cast<double>(bytes) / seconds({read})[0];
}

Json to_json(const Shape& shape, const std::vector<Timed>& all) {
  Json products = Json::array();
  double total = 0, ours = 0, flops = 0;
  for (const Timed& timed : all) {
    const auto rate = [&](double s) { return s > 0 ? Json(timed.flops / s * 1e-9) : Json(); };
    products.push_back({{"name", timed.name},
                        {"times_a_step", timed.count},
                        {"gflop", timed.flops * 1e-9},
                        {"ours_gflops", rate(timed.ours)},
                        {"aten_gflops", rate(timed.aten)},
                        {"onednn_gflops", rate(timed.onednn)}});
    total += static_cast<double>(timed.count) * timed.best();
    ours += static_cast<double>(timed.count) * timed.ours;
    flops += static_cast<double>(timed.count) * timed.flops;
  }
  Json peaks{{"avx2", peak(shape.threads, peak_avx2) * 1e-9}};
  if (__builtin_cpu_supports("avx512f")) peaks["avx512"] = peak(shape.threads, peak_avx512) * 1e-9;
  if (__builtin_cpu_supports("avx512bf16"))
    peaks["avx512_bf16"] = peak(shape.threads, peak_bf16) * 1e-9;
  return {{"kernels", kernels_name(kernels())},
          {"precision", shape.precision},
          {"threads", shape.threads},
          {"tokens", shape.tokens()},
          {"gflop_a_step", flops * 1e-9},
          {"roofline_s", total},
          {"ours_alone_s", ours},
          {"roofline_tokens_per_s", static_cast<double>(shape.tokens()) / total},
          {"peak_gflops", peaks},
          {"bandwidth_gb_s", bandwidth(shape.threads) * 1e-9},
          {"products", products}};
}

}  // namespace
}  // namespace train_sft::ops

int main(int argc, char** argv) {
  using namespace train_sft::ops;
  Shape shape;
  CLI::App app("The least time of a training step, product by product");
  app.add_option("--n_layer", shape.n_layer);
  app.add_option("--n_head", shape.n_head);
  app.add_option("--n_embd", shape.n_embd);
  app.add_option("--vocab", shape.vocab);
  app.add_option("--batch", shape.batch, "Rows");
  app.add_option("--length", shape.length, "Tokens a row");
  app.add_option("--precision", shape.precision)->check(CLI::IsMember({"fp32", "bf16"}));
  app.add_option("--threads", shape.threads);
  bool bandwidth_only = false;
  app.add_flag("--bandwidth_only", bandwidth_only, "Measure nothing else");
  CLI11_PARSE(app, argc, argv);
  at::set_num_threads(shape.threads);
  if (bandwidth_only) {
    const train_sft::Json found{{"bandwidth_gb_s", bandwidth(shape.threads) * 1e-9}};
    std::printf("%s\n", found.dump(2).c_str());
    return 0;
  }
  std::vector<Timed> all;
  const int64_t C = shape.n_embd;
  add_linear(all, "q, k, v", shape, C, 3 * C, shape.n_layer, WeightLayout::in_out);
  add_linear(all, "attention's projection", shape, C, C, shape.n_layer, WeightLayout::in_out);
  add_linear(all, "feed-forward up", shape, C, 4 * C, shape.n_layer, WeightLayout::in_out);
  add_linear(all, "feed-forward down", shape, 4 * C, C, shape.n_layer, WeightLayout::in_out);
  add_linear(all, "output layer", shape, C, shape.vocab, 1, WeightLayout::out_in);
  add_attention(all, shape);
  std::printf("%s\n", to_json(shape, all).dump(2).c_str());
  return 0;
}
