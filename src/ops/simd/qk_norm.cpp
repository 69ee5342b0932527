// RMS normalisation of the heads of queries and keys: a head at a time, in float.
#include "ops/simd/fill.h"
#include "ops/simd/parallel.h"
#include "ops/simd/table.h"
#include "ops/simd/vec.h"

namespace train_sft::ops::TRAIN_SFT_ISA {
namespace {

thread_local KeptMemory partial_memory;

template <typename T>
void forward(const simd::QkNorm<T>& q) {
  const int64_t heads = q.H + q.Hkv, D = q.D;
  parallel_shares(q.N, 1, threads_for(q.N * heads * D), [&](int64_t begin, int64_t end, int64_t) {
    for (int64_t row = begin * heads; row < end * heads; ++row) {
      const int64_t h = row % heads;
      T* x = q.x + row / heads * q.width + h * D;
      const T* weight = h < q.H ? q.q_weight : q.k_weight;
      Vec squares = Vec::zero();
      for_lanes(D, [&](int64_t d, int64_t n) TRAIN_SFT_INLINE_LAMBDA {
        const Vec v = load(x + d, n);
        squares = fma(v, v, squares);
      });
      const float rstd = 1.0f / __builtin_sqrtf(squares.sum() / static_cast<float>(D) + q.eps);
      if (q.rstd != nullptr) q.rstd[row] = rstd;
      for_lanes(D, [&](int64_t d, int64_t n) TRAIN_SFT_INLINE_LAMBDA {
        const Vec v = load(x + d, n);
        if (q.input != nullptr) store(q.input + row * D + d, v, n);
        store(x + d, v * Vec::all(rstd) * load(weight + d, n), n);
      });
    }
  });
}

template <typename T>
TRAIN_SFT_INLINE void backward_head(T* grad, const T* input, float rstd, const T* weight,
                                    float* grad_weight, int64_t D) {
  Vec sum = Vec::zero();
  for_lanes(D, [&](int64_t d, int64_t n) TRAIN_SFT_INLINE_LAMBDA {
    const Vec dy = load(grad + d, n), x_hat = load(input + d, n) * Vec::all(rstd);
    sum = fma(dy * load(weight + d, n), x_hat, sum);
    if (grad_weight != nullptr) {
      store(grad_weight + d, fma(dy, x_hat, load(grad_weight + d, n)), n);
    }
  });
  const Vec average = Vec::all(sum.sum() / static_cast<float>(D));
  for_lanes(D, [&](int64_t d, int64_t n) TRAIN_SFT_INLINE_LAMBDA {
    const Vec g = load(grad + d, n) * load(weight + d, n);
    const Vec x_hat = load(input + d, n) * Vec::all(rstd);
    store(grad + d, fnma(x_hat, average, g) * Vec::all(rstd), n);
  });
}

// Threads add to weight gradients of their own, which are then added in the order of threads.
template <typename T>
void backward(const simd::QkNorm<T>& q) {
  const int64_t heads = q.H + q.Hkv, D = q.D;
  const int threads = threads_for(q.N * heads * D);
  const bool learns = q.grad_q_weight != nullptr || q.grad_k_weight != nullptr;
  const int64_t stride = (D + 15) / 16 * 16;
  float* partial = learns ? partial_memory.floats(threads * 2 * stride) : nullptr;
  for (int64_t i = 0; learns && i < threads * 2 * stride; ++i) partial[i] = 0;
  parallel_shares(q.N, 1, threads, [&](int64_t begin, int64_t end, int64_t thread) {
    float* const of_q = learns ? partial + thread * 2 * stride : nullptr;
    float* const of_k = learns ? of_q + stride : nullptr;
    for (int64_t row = begin * heads; row < end * heads; ++row) {
      const int64_t h = row % heads;
      const bool is_q = h < q.H;
      backward_head(q.x + row / heads * q.width + h * D, q.input + row * D, q.rstd[row],
                    is_q ? q.q_weight : q.k_weight, is_q ? of_q : of_k, D);
    }
  });
  if (!learns) return;
  const auto reduce = [&](float* to, const float* from) {
    for (int t = 0; to != nullptr && t < threads; ++t)
      for (int64_t d = 0; d < D; ++d) to[d] += from[t * 2 * stride + d];
  };
  reduce(q.grad_q_weight, partial);
  reduce(q.grad_k_weight, partial + stride);
}

template <typename T>
void fill(simd::Kernels<T>& kernels) {
  kernels.qk_norm_forward = forward<T>;
  kernels.qk_norm_backward = backward<T>;
}

}  // namespace

void fill_qk_norm(simd::Table& table) {
  fill(table.f32);
  fill(table.bf16);
}

}  // namespace train_sft::ops::TRAIN_SFT_ISA
