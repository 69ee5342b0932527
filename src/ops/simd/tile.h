// The innermost product: a tile of MR rows by NV vectors of columns held in registers.
#pragma once

#include "ops/simd/vec.h"

namespace train_sft::ops::TRAIN_SFT_ISA {
namespace {

#ifdef __AVX512F__
constexpr int kTileRows = 14;  // 28 accumulators of 32 registers
#else
constexpr int kTileRows = 6;  // 12 of 16
#endif
constexpr int kTileVecs = 2;
constexpr int64_t kTileColumns = kTileVecs * Vec::width;

template <int MR, int NV>
struct Tile {
  Vec acc[MR][NV];

  TRAIN_SFT_INLINE void clear() {
    unrolled<MR>([&](auto i) TRAIN_SFT_INLINE_LAMBDA {
      unrolled<NV>([&](auto j) TRAIN_SFT_INLINE_LAMBDA { acc[i][j] = Vec::zero(); });
    });
  }

  // acc += Σ_k a(i, k) b[k b_stride + j], where a(i, k) is a[k a_stride + i]: a column-major (or
  // packed) left side.
  TRAIN_SFT_INLINE void add_column_major(const float* a, int64_t a_stride, const float* b,
                                         int64_t b_stride, int64_t K) {
    for (int64_t k = 0; k < K; ++k, a += a_stride, b += b_stride) {
      Vec row[NV];
      unrolled<NV>([&](auto j)
                       __attribute__((always_inline)) { row[j] = Vec::load(b + j * Vec::width); });
      unrolled<MR>([&](auto i) TRAIN_SFT_INLINE_LAMBDA {
        const Vec x = Vec::all(a[i]);
        unrolled<NV>([&](auto j)
                         __attribute__((always_inline)) { acc[i][j] = fma(x, row[j], acc[i][j]); });
      });
    }
  }

  // The same with a(i, k) = a[i a_stride + k]. Rows are addressed from every third one, so that the
  // addresses of all fit in registers.
  TRAIN_SFT_INLINE void add_row_major(const float* a, int64_t a_stride, const float* b,
                                      int64_t b_stride, int64_t K) {
    const float* third[(MR + 2) / 3];
    unrolled<(MR + 2) / 3>([&](auto t)
                               __attribute__((always_inline)) { third[t] = a + 3 * t * a_stride; });
    for (int64_t k = 0; k < K; ++k, b += b_stride) {
      Vec row[NV];
      unrolled<NV>([&](auto j)
                       __attribute__((always_inline)) { row[j] = Vec::load(b + j * Vec::width); });
      unrolled<MR>([&](auto i) TRAIN_SFT_INLINE_LAMBDA {
        const Vec x = Vec::all(third[i / 3][(i % 3) * a_stride]);
        unrolled<NV>([&](auto j)
                         __attribute__((always_inline)) { acc[i][j] = fma(x, row[j], acc[i][j]); });
      });
      unrolled<(MR + 2) / 3>([&](auto t) TRAIN_SFT_INLINE_LAMBDA { ++third[t]; });
    }
  }

#ifdef __AVX512BF16__
  // add_column_major over pairs of bfloat16: a lane holds k = 2p and 2p + 1.
  TRAIN_SFT_INLINE void add_pairs(const uint32_t* a, int64_t a_stride, const uint32_t* b,
                                  int64_t b_stride, int64_t pairs) {
    for (int64_t p = 0; p < pairs; ++p, a += a_stride, b += b_stride) {
      __m512bh row[NV];
      unrolled<NV>([&](auto j) TRAIN_SFT_INLINE_LAMBDA {
        row[j] = (__m512bh)_mm512_loadu_si512(b + j * Vec::width);
      });
      unrolled<MR>([&](auto i) TRAIN_SFT_INLINE_LAMBDA {
        const __m512bh x = (__m512bh)_mm512_set1_epi32(static_cast<int>(a[i]));
        unrolled<NV>([&](auto j) TRAIN_SFT_INLINE_LAMBDA {
          acc[i][j].v = _mm512_dpbf16_ps(acc[i][j].v, x, row[j]);
        });
      });
    }
  }

  // add_row_major over pairs of bfloat16.
  TRAIN_SFT_INLINE void add_row_major_pairs(const uint32_t* a, int64_t a_stride, const uint32_t* b,
                                            int64_t b_stride, int64_t pairs) {
    const uint32_t* third[(MR + 2) / 3];
    unrolled<(MR + 2) / 3>([&](auto t)
                               __attribute__((always_inline)) { third[t] = a + 3 * t * a_stride; });
    for (int64_t p = 0; p < pairs; ++p, b += b_stride) {
      __m512bh row[NV];
      unrolled<NV>([&](auto j) TRAIN_SFT_INLINE_LAMBDA {
        row[j] = (__m512bh)_mm512_loadu_si512(b + j * Vec::width);
      });
      unrolled<MR>([&](auto i) TRAIN_SFT_INLINE_LAMBDA {
        const __m512bh x =
            (__m512bh)_mm512_set1_epi32(static_cast<int>(third[i / 3][(i % 3) * a_stride]));
        unrolled<NV>([&](auto j) TRAIN_SFT_INLINE_LAMBDA {
          acc[i][j].v = _mm512_dpbf16_ps(acc[i][j].v, x, row[j]);
        });
      });
      unrolled<(MR + 2) / 3>([&](auto t) TRAIN_SFT_INLINE_LAMBDA { ++third[t]; });
    }
  }
#endif
};

// Calls f.template operator()<rows>() for 1 ≤ rows ≤ Max.
template <int Max, typename F>
TRAIN_SFT_INLINE void with_rows(int64_t rows, F&& f) {
  if constexpr (Max > 1) {
    if (rows < Max) return with_rows<Max - 1>(rows, f);
  }
  f.template operator()<Max>();
}

}  // namespace
}  // namespace train_sft::ops::TRAIN_SFT_ISA
