// Packing of matrix panels for gemm.cpp: element (i, k) of a panel of `width` goes to
// to[k stride + i], as float, or as pairs (k, k + 1) of bfloat16.
#pragma once

#include <type_traits>

#include "ops/simd/table.h"
#include "ops/simd/vec.h"

namespace train_sft::ops::TRAIN_SFT_ISA {
namespace {

TRAIN_SFT_INLINE __m256 load8(const float* p) {
  return _mm256_loadu_ps(p);
}
TRAIN_SFT_INLINE __m256 load8(const uint32_t* p) {
  return _mm256_loadu_ps(reinterpret_cast<const float*>(p));
}
TRAIN_SFT_INLINE __m256 load8(const bf16_bits* p) {
  const __m128i bits = _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
  return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(bits), 16));
}

// rows[0…7] of 8 floats become columns.
TRAIN_SFT_INLINE void transpose8(__m256 (&r)[8]) {
  __m256 t[8], u[8];
  for (int i = 0; i < 4; ++i) {
    t[2 * i] = _mm256_unpacklo_ps(r[2 * i], r[2 * i + 1]);
    t[2 * i + 1] = _mm256_unpackhi_ps(r[2 * i], r[2 * i + 1]);
  }
  for (int i = 0; i < 2; ++i) {
    u[4 * i] = _mm256_shuffle_ps(t[4 * i], t[4 * i + 2], 0x44);
    u[4 * i + 1] = _mm256_shuffle_ps(t[4 * i], t[4 * i + 2], 0xEE);
    u[4 * i + 2] = _mm256_shuffle_ps(t[4 * i + 1], t[4 * i + 3], 0x44);
    u[4 * i + 3] = _mm256_shuffle_ps(t[4 * i + 1], t[4 * i + 3], 0xEE);
  }
  for (int i = 0; i < 4; ++i) {
    r[i] = _mm256_permute2f128_ps(u[i], u[i + 4], 0x20);
    r[i + 4] = _mm256_permute2f128_ps(u[i], u[i + 4], 0x31);
  }
}

// to[k stride + i] = from[i from_stride + k] for i < width, k < K; `stride` is a multiple of 8 and
// lanes from width to the next multiple of 8 are written too, with anything. S: float, bf16_bits
// (widened), or float standing for pairs of bfloat16.
template <typename S>
void pack_transposed(float* to, int64_t stride, const S* from, int64_t from_stride, int64_t width,
                     int64_t K) {
  for (int64_t i0 = 0; i0 < width; i0 += 8) {
    const int64_t rows = width - i0 < 8 ? width - i0 : 8;
    const S* row[8];
    for (int64_t i = 0; i < 8; ++i) row[i] = from + (i0 + (i < rows ? i : 0)) * from_stride;
    float* column = to + i0;
    int64_t k = 0;
    for (; k + 8 <= K; k += 8) {
      __m256 r[8];
      for (int i = 0; i < 8; ++i) r[i] = load8(row[i] + k);
      transpose8(r);
      for (int i = 0; i < 8; ++i) _mm256_storeu_ps(column + (k + i) * stride, r[i]);
    }
    for (; k < K; ++k) {
      for (int64_t i = 0; i < 8; ++i) column[k * stride + i] = widen1(row[i][k]);
    }
  }
}

// to[k stride + i] = from[k from_stride + i]; lanes from width to the next multiple of Vec::width
// are written too.
template <typename S>
void pack_straight(float* to, int64_t stride, const S* from, int64_t from_stride, int64_t width,
                   int64_t K) {
  for (int64_t k = 0; k < K; ++k, to += stride, from += from_stride) {
    for_lanes(width, [&](int64_t i, int64_t n)
                         TRAIN_SFT_INLINE_LAMBDA { load(from + i, n).store(to + i); });
  }
}

// Rows [row, row + rows) of op(a), elements [k, k + K).
template <typename T>
void pack_left(float* to, int64_t stride, const simd::GemmOperand<T>& a, int64_t row, int64_t rows,
               int64_t k, int64_t K) {
  if (a.transposed) {
    pack_straight(to, stride, a.data + k * a.stride + row, a.stride, rows, K);
  } else {
    pack_transposed(to, stride, a.data + row * a.stride + k, a.stride, rows, K);
  }
}

template <typename T>
void pack_right(float* to, int64_t stride, const simd::GemmOperand<T>& b, int64_t k, int64_t K,
                int64_t column, int64_t columns) {
  pack_left(to, stride, simd::GemmOperand<T>{b.data, b.stride, !b.transposed}, column, columns, k,
            K);
}

#ifdef __AVX512BF16__
// What a processor's own prefetching does not follow: eight rows side by side, or a column of rows
// (docs/performance.md).
constexpr int64_t kAheadInRow = 128, kAheadPairs = 16;
TRAIN_SFT_INLINE void fetch(const bf16_bits* p) {
  _mm_prefetch(reinterpret_cast<const char*>(p), _MM_HINT_T0);
}

TRAIN_SFT_INLINE uint32_t pair(bf16_bits low, bf16_bits high) {
  return uint32_t{low} | uint32_t{high} << 16;
}

// Pairs of neighbours in a row are 32-bit units already: they are transposed as such.
inline void pack_left(uint32_t* to, int64_t stride, const simd::GemmOperand<bf16_bits>& a,
                      int64_t row, int64_t rows, int64_t k, int64_t K) {
  const int64_t whole = K / 2;
  if (!a.transposed) {
    for (int64_t i0 = 0; i0 < rows; i0 += 8) {
      const bf16_bits* source[8];
      for (int64_t i = 0; i < 8; ++i) {
        source[i] = a.data + (row + i0 + (i0 + i < rows ? i : 0)) * a.stride + k;
      }
      uint32_t* column = to + i0;
      int64_t p = 0;
      for (; p + 8 <= whole; p += 8) {
        if (p % 16 == 0) {  // a cache line on
          for (const bf16_bits* row_begin : source) fetch(row_begin + 2 * p + kAheadInRow);
        }
        __m256 r[8];
        for (int i = 0; i < 8; ++i) {
          r[i] = _mm256_castsi256_ps(
              _mm256_loadu_si256(reinterpret_cast<const __m256i*>(source[i] + 2 * p)));
        }
        transpose8(r);
        for (int i = 0; i < 8; ++i) {
          _mm256_storeu_ps(reinterpret_cast<float*>(column + (p + i) * stride), r[i]);
        }
      }
      for (; 2 * p < K; ++p) {
        for (int64_t i = 0; i < 8; ++i) {
          const bf16_bits second = 2 * p + 1 < K ? source[i][2 * p + 1] : bf16_bits{0};
          column[p * stride + i] = pair(source[i][2 * p], second);
        }
      }
    }
    return;
  }
  const bf16_bits* from = a.data + k * a.stride + row;
  for (int64_t p = 0; 2 * p < K; ++p, from += 2 * a.stride) {
    const bool odd = 2 * p + 1 == K;
    fetch(from + 2 * kAheadPairs * a.stride);
    fetch(from + (2 * kAheadPairs + 1) * a.stride);
    int64_t i = 0;
    for (; !odd && i + 16 <= rows; i += 16) {
      const __m512i low =
          _mm512_cvtepu16_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(from + i)));
      const __m512i high = _mm512_cvtepu16_epi32(
          _mm256_loadu_si256(reinterpret_cast<const __m256i*>(from + a.stride + i)));
      _mm512_storeu_si512(to + p * stride + i, _mm512_or_si512(low, _mm512_slli_epi32(high, 16)));
    }
    for (; i < rows; i += 16) {
      const __mmask16 lanes = Vec::first(rows - i < 16 ? rows - i : 16);
      const __m512i low = _mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(lanes, from + i));
      const __m512i high =
          odd ? _mm512_setzero_si512()
              : _mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(lanes, from + a.stride + i));
      _mm512_mask_storeu_epi32(to + p * stride + i, lanes,
                               _mm512_or_si512(low, _mm512_slli_epi32(high, 16)));
    }
  }
}

inline void pack_right(uint32_t* to, int64_t stride, const simd::GemmOperand<bf16_bits>& b,
                       int64_t k, int64_t K, int64_t column, int64_t columns) {
  pack_left(to, stride, simd::GemmOperand<bf16_bits>{b.data, b.stride, !b.transposed}, column,
            columns, k, K);
}
#endif

}  // namespace
}  // namespace train_sft::ops::TRAIN_SFT_ISA
