// The update of AdamW, sums of squares, and the softmax of cross-entropy.
#include "ops/simd/fill.h"
#include "ops/simd/parallel.h"
#include "ops/simd/table.h"
#include "ops/simd/vec.h"

namespace train_sft::ops::TRAIN_SFT_ISA {
namespace {

template <typename T>
void adamw(const simd::AdamW<T>& a) {
  const simd::AdamWConstants& c = a.constants;
  const Vec beta1 = Vec::all(c.beta1), rest1 = Vec::all(c.rest1);
  const Vec beta2 = Vec::all(c.beta2), rest2 = Vec::all(c.rest2);
  const Vec scale = Vec::all(c.grad_scale), keep = Vec::all(c.keep), eps = Vec::all(c.eps);
  const Vec step_size = Vec::all(c.step_size), inverse_root = Vec::all(c.inverse_root);
  parallel_shares(a.count, 64, threads_for(a.count), [&](int64_t begin, int64_t end, int64_t) {
    for_lanes(end - begin, [&](int64_t i, int64_t n) TRAIN_SFT_INLINE_LAMBDA {
      i += begin;
      const Vec g = load(a.grad + i, n) * scale;
      const Vec m = fma(beta1, load(a.exp_avg + i, n), rest1 * g);
      const Vec v = fma(beta2, load(a.exp_avg_sq + i, n), rest2 * g * g);
      const Vec denominator = fma(sqrt(v), inverse_root, eps);
      const Vec p = fnma(step_size, m / denominator, load(a.master + i, n) * keep);
      store(a.exp_avg + i, m, n);
      store(a.exp_avg_sq + i, v, n);
      store(a.master + i, p, n);
      if (a.compute != nullptr) store(a.compute + i, p, n);
    });
  });
}

// Two vectors of doubles, one of the even and one of the odd halves of a Vec.
#ifdef __AVX512F__
struct DoubleSum {
  __m512d low = _mm512_setzero_pd(), high = _mm512_setzero_pd();
  TRAIN_SFT_INLINE void add_square(Vec x) {
    const __m512d a = _mm512_cvtps_pd(_mm512_castps512_ps256(x.v));
    const __m512d b = _mm512_cvtps_pd(_mm512_extractf32x8_ps(x.v, 1));
    low = _mm512_fmadd_pd(a, a, low);
    high = _mm512_fmadd_pd(b, b, high);
  }
  TRAIN_SFT_INLINE double sum() const { return _mm512_reduce_add_pd(_mm512_add_pd(low, high)); }
};
#else
struct DoubleSum {
  __m256d low = _mm256_setzero_pd(), high = _mm256_setzero_pd();
  TRAIN_SFT_INLINE void add_square(Vec x) {
    const __m256d a = _mm256_cvtps_pd(_mm256_castps256_ps128(x.v));
    const __m256d b = _mm256_cvtps_pd(_mm256_extractf128_ps(x.v, 1));
    low = _mm256_fmadd_pd(a, a, low);
    high = _mm256_fmadd_pd(b, b, high);
  }
  TRAIN_SFT_INLINE double sum() const {
    const __m256d s = _mm256_add_pd(low, high);
    const __m128d t = _mm_add_pd(_mm256_castpd256_pd128(s), _mm256_extractf128_pd(s, 1));
    return _mm_cvtsd_f64(t) + _mm_cvtsd_f64(_mm_unpackhi_pd(t, t));
  }
};
#endif

// sums[b] of each block of `block` elements.
void block_sums_of_squares(double* sums, const float* x, int64_t count, int64_t block) {
  const int64_t blocks = (count + block - 1) / block;
  parallel_shares(blocks, 1, threads_for(count), [&](int64_t begin, int64_t end, int64_t) {
    for (int64_t b = begin; b < end; ++b) {
      const int64_t first = b * block, left = count - first;
      DoubleSum even, odd;
      bool flip = false;
      for_lanes(left < block ? left : block, [&](int64_t i, int64_t n) TRAIN_SFT_INLINE_LAMBDA {
        (flip ? odd : even).add_square(load(x + first + i, n));
        flip = !flip;
      });
      sums[b] = even.sum() + odd.sum();
    }
  });
}

TRAIN_SFT_INLINE float row_max(const float* x, int64_t V) {
  Vec largest = Vec::all(-__builtin_inff());
  for_lanes(V, [&](int64_t v, int64_t n) TRAIN_SFT_INLINE_LAMBDA {
    const Vec values = load(x + v, n);
    largest = max(n == 0 ? values : values.then(largest, n), largest);
  });
  return largest.max();
}

// exp(x - maximum), in place when kStore; returns the sum.
template <bool kStore>
TRAIN_SFT_INLINE float row_exp(float* x, float maximum, int64_t V) {
  Vec sum = Vec::zero();
  for_lanes(V, [&](int64_t v, int64_t n) TRAIN_SFT_INLINE_LAMBDA {
    const Vec e = kept(exp(load(x + v, n) - Vec::all(maximum)), n);
    if (kStore) store(x + v, e, n);
    sum = sum + e;
  });
  return sum.sum();
}

// The softmax and loss of rows of logits; their gradients over them, each at the beginning of its
// row: one of bfloat16 is written behind what is still to be read.
template <typename T>
void softmax_loss(float* logits, const int32_t* targets, const float* weights,
                  simd::RowLoss* losses, int64_t rows, int64_t V, bool gradients) {
  parallel_shares(rows, 1, threads_for(rows * V * 8), [&](int64_t begin, int64_t end, int64_t) {
    for (int64_t r = begin; r < end; ++r) {
      float* x = logits + r * V;
      const float maximum = row_max(x, V), target_logit = x[targets[r]];
      bool correct = target_logit == maximum;  // the first of equals
      for (int64_t v = 0; correct && v < targets[r]; ++v) correct = x[v] != maximum;
      const float sum = gradients ? row_exp<true>(x, maximum, V) : row_exp<false>(x, maximum, V);
      losses[r] = {maximum, target_logit, sum, correct};
      if (!gradients) continue;
      T* grad = reinterpret_cast<T*>(x);
      const Vec factor = Vec::all(weights[r] / sum);
      const float at_target = x[targets[r]] * (weights[r] / sum) - weights[r];
      for_lanes(V, [&](int64_t v, int64_t n)
                       TRAIN_SFT_INLINE_LAMBDA { store(grad + v, load(x + v, n) * factor, n); });
      store(grad + targets[r], Vec::all(at_target), 1);
    }
  });
}

}  // namespace

void fill_reductions(simd::Table& table) {
  table.f32.adamw = adamw<float>;
  table.bf16.adamw = adamw<bf16_bits>;
  table.block_sums_of_squares = block_sums_of_squares;
  table.f32.softmax_loss = softmax_loss<float>;
  table.bf16.softmax_loss = softmax_loss<bf16_bits>;
}

}  // namespace train_sft::ops::TRAIN_SFT_ISA
