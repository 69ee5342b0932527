// Layer and RMS normalisation: a row at a time, in float.
#include "ops/simd/fill.h"
#include "ops/simd/parallel.h"
#include "ops/simd/table.h"
#include "ops/simd/vec.h"

namespace train_sft::ops::TRAIN_SFT_ISA {
namespace {

thread_local KeptMemory partial_memory;

// residual_out = residual + delta, rounded to T.
template <typename T>
TRAIN_SFT_INLINE void add_row(T* out, const T* a, const T* b, int64_t C) {
  for_lanes(C, [&](int64_t c, int64_t n)
                   TRAIN_SFT_INLINE_LAMBDA { store(out + c, load(a + c, n) + load(b + c, n), n); });
}

template <typename T>
TRAIN_SFT_INLINE float row_sum(const T* x, int64_t C) {
  Vec sum = Vec::zero();
  for_lanes(C, [&](int64_t c, int64_t n) TRAIN_SFT_INLINE_LAMBDA { sum = sum + load(x + c, n); });
  return sum.sum();
}

// Σ (x - mean)²
template <typename T>
TRAIN_SFT_INLINE float row_squares(const T* x, float mean, int64_t C) {
  Vec sum = Vec::zero();
  for_lanes(C, [&](int64_t c, int64_t n) TRAIN_SFT_INLINE_LAMBDA {
    const Vec d = kept(load(x + c, n) - Vec::all(mean), n);
    sum = fma(d, d, sum);
  });
  return sum.sum();
}

TRAIN_SFT_INLINE float inverse_root(float x) {
  return 1.0f / __builtin_sqrtf(x);
}

// kCentred: layer norm; else RMS norm, with no mean and no bias.
template <typename T, bool kCentred>
void forward(const simd::NormForward<T>& f) {
  const int64_t N = f.N, C = f.C;
  parallel_shares(N, 1, threads_for(N * C), [&](int64_t begin, int64_t end, int64_t) {
    for (int64_t n = begin; n < end; ++n) {
      const T* x = f.residual + n * C;
      if (f.delta != nullptr) {
        add_row(f.residual_out + n * C, x, f.delta + n * C, C);
        x = f.residual_out + n * C;
      }
      const float count = static_cast<float>(C);
      const float mean = kCentred ? row_sum(x, C) / count : 0.0f;
      const float rstd = inverse_root(row_squares(x, mean, C) / count + f.eps);
      T* normed = f.normed + n * C;
      for_lanes(C, [&](int64_t c, int64_t l) TRAIN_SFT_INLINE_LAMBDA {
        const Vec x_hat = (load(x + c, l) - Vec::all(mean)) * Vec::all(rstd);
        const Vec bias = kCentred ? load(f.bias + c, l) : Vec::zero();
        store(normed + c, fma(x_hat, load(f.weight + c, l), bias), l);
      });
      if (kCentred) f.mean[n] = mean;
      f.rstd[n] = rstd;
    }
  });
}

// One row of the backward: sums first (adding to the weight's and bias's gradients), then
// grad_input.
template <typename T, bool kCentred>
TRAIN_SFT_INLINE void backward_row(const simd::NormBackward<T>& b, int64_t n, float* grad_weight,
                                   float* grad_bias) {
  const int64_t C = b.C;
  const T* x = b.input + n * C;
  const T* dy = b.grad_normed + n * C;
  T* dx = b.grad_input + n * C;
  const Vec mean = kCentred ? Vec::all(b.mean[n]) : Vec::zero(), rstd = Vec::all(b.rstd[n]);
  Vec sum_g = Vec::zero(), sum_gx = Vec::zero();
  for_lanes(C, [&](int64_t c, int64_t l) TRAIN_SFT_INLINE_LAMBDA {
    const Vec grad = load(dy + c, l), x_hat = (load(x + c, l) - mean) * rstd;
    const Vec g = grad * load(b.weight + c, l);
    sum_g = sum_g + g;
    sum_gx = fma(g, x_hat, sum_gx);
    if (grad_weight != nullptr) {
      store(grad_weight + c, fma(grad, x_hat, load(grad_weight + c, l)), l);
    }
    if (kCentred && grad_bias != nullptr) store(grad_bias + c, grad + load(grad_bias + c, l), l);
  });
  const float count = static_cast<float>(C);
  const Vec average_g = kCentred ? Vec::all(sum_g.sum() / count) : Vec::zero();
  const Vec average_gx = Vec::all(sum_gx.sum() / count);
  for_lanes(C, [&](int64_t c, int64_t l) TRAIN_SFT_INLINE_LAMBDA {
    const Vec x_hat = (load(x + c, l) - mean) * rstd;
    const Vec g = load(dy + c, l) * load(b.weight + c, l);
    const Vec grad = fnma(x_hat, average_gx, g - average_g) * rstd;
    store(dx + c, b.accumulate ? grad + load(dx + c, l) : grad, l);
  });
}

// Threads add to weight gradients of their own, which are then added in the order of threads.
template <typename T, bool kCentred>
void backward(const simd::NormBackward<T>& b) {
  const int64_t N = b.N, C = b.C;
  const int threads = threads_for(N * C);
  const bool learns = b.grad_weight != nullptr || b.grad_bias != nullptr;
  const int64_t stride = (C + 15) / 16 * 16;
  float* partial = learns ? partial_memory.floats(threads * 2 * stride) : nullptr;
  for (int64_t i = 0; learns && i < threads * 2 * stride; ++i) partial[i] = 0;
  parallel_shares(N, 1, threads, [&](int64_t begin, int64_t end, int64_t thread) {
    float* weight = learns ? partial + thread * 2 * stride : nullptr;
    float* bias = learns ? weight + stride : nullptr;
    for (int64_t n = begin; n < end; ++n) backward_row<T, kCentred>(b, n, weight, bias);
  });
  auto reduce = [&](float* to, const float* from) {
    if (to == nullptr) return;
    for (int t = 0; t < threads; ++t) {
      for (int64_t c = 0; c < C; ++c) to[c] += from[t * 2 * stride + c];
    }
  };
  if (!learns) return;
  reduce(b.grad_weight, partial);
  if (kCentred) reduce(b.grad_bias, partial + stride);
}

template <typename T>
void fill(simd::Kernels<T>& kernels) {
  kernels.layer_norm_forward = forward<T, true>;
  kernels.layer_norm_backward = backward<T, true>;
  kernels.rms_norm_forward = forward<T, false>;
  kernels.rms_norm_backward = backward<T, false>;
}

}  // namespace

void fill_norm(simd::Table& table) {
  fill(table.f32);
  fill(table.bf16);
}

}  // namespace train_sft::ops::TRAIN_SFT_ISA
