// What the kernels of attention have in common: how documents and heads are shared among threads,
// and rows of heads in float.
#pragma once

#include "ops/simd/small_product.h"
#include "ops/simd/table.h"
#include "ops/simd/vec.h"

namespace train_sft::ops::TRAIN_SFT_ISA {
namespace {

// Calls f(document, head) for a thread's part of documents × heads: that whose middles lie in the
// thread's share of the cost.
template <typename F>
void for_my_units(const simd::AttentionSize& size, int64_t heads, int64_t me, int64_t team, F&& f) {
  double total = 1e-9;  // all documents may be empty
  auto cost = [&](int64_t d) {
    const double length = size.cu_seqlens[d + 1] - size.cu_seqlens[d];
    return length * (length + 64);
  };
  for (int64_t d = 0; d < size.documents; ++d) total += cost(d) * static_cast<double>(heads);
  double before = 0;
  for (int64_t d = 0; d < size.documents; ++d) {
    for (int64_t h = 0; h < heads; ++h) {
      const double middle = before + cost(d) / 2;
      before += cost(d);
      const int64_t owner = static_cast<int64_t>(middle * static_cast<double>(team) / total);
      if ((owner < team ? owner : team - 1) == me) f(d, h);
    }
  }
}

double attention_elements(const simd::AttentionSize& size) {
  double elements = 0;
  for (int64_t d = 0; d < size.documents; ++d) {
    const double length = size.cu_seqlens[d + 1] - size.cu_seqlens[d];
    elements += length * length;
  }
  return elements * static_cast<double>(size.H * size.D) / 8;
}

// to[r to_stride + d] = from[r padded(D) + d] * scale.
template <typename T>
void store_rows(T* to, int64_t to_stride, const float* from, int64_t rows, int64_t D, float scale) {
  const int64_t width = padded(D);
  for (int64_t r = 0; r < rows; ++r) {
    for_lanes(D, [&](int64_t d, int64_t n) TRAIN_SFT_INLINE_LAMBDA {
      store(to + r * to_stride + d, Vec::load(from + r * width + d) * Vec::all(scale), n);
    });
  }
}

// Σ a b of D numbers.
template <typename T>
TRAIN_SFT_INLINE float row_product(const T* a, const T* b, int64_t D) {
  Vec sum = Vec::zero();
  for_lanes(D, [&](int64_t d, int64_t n)
                   TRAIN_SFT_INLINE_LAMBDA { sum = fma(load(a + d, n), load(b + d, n), sum); });
  return sum.sum();
}

}  // namespace
}  // namespace train_sft::ops::TRAIN_SFT_ISA
