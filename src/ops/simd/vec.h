// A vector of floats for the instruction set this file is compiled for, and the functions the
// kernels need of it. Everything here is internal to one translation unit and includes no library
// header: an inline function shared with other objects could carry AVX-512 into them.
#pragma once

#include <immintrin.h>

#include <cstdint>

#define TRAIN_SFT_INLINE inline __attribute__((always_inline))
// After a lambda's parameters.
#define TRAIN_SFT_INLINE_LAMBDA __attribute__((always_inline))

namespace train_sft::ops::TRAIN_SFT_ISA {
namespace {

using bf16_bits = uint16_t;

#ifdef __AVX512F__

struct Vec {
  static constexpr int64_t width = 16;
  __m512 v;

  TRAIN_SFT_INLINE static __mmask16 first(int64_t n) {
    return static_cast<__mmask16>((1u << n) - 1u);
  }
  TRAIN_SFT_INLINE static Vec zero() { return {_mm512_setzero_ps()}; }
  TRAIN_SFT_INLINE static Vec all(float x) { return {_mm512_set1_ps(x)}; }
  TRAIN_SFT_INLINE static Vec load(const float* p) { return {_mm512_loadu_ps(p)}; }
  TRAIN_SFT_INLINE static Vec load(const float* p, int64_t n) {
    return {_mm512_maskz_loadu_ps(first(n), p)};
  }
  TRAIN_SFT_INLINE static Vec widen(__m256i bits) {
    return {_mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(bits), 16))};
  }
  TRAIN_SFT_INLINE static Vec load(const bf16_bits* p) {
    return widen(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
  }
  TRAIN_SFT_INLINE static Vec load(const bf16_bits* p, int64_t n) {
    return widen(_mm256_maskz_loadu_epi16(first(n), p));
  }
  TRAIN_SFT_INLINE void store(float* p) const { _mm512_storeu_ps(p, v); }
  TRAIN_SFT_INLINE void store(float* p, int64_t n) const { _mm512_mask_storeu_ps(p, first(n), v); }
  // Round to nearest even; NaN becomes the quiet NaN.
  TRAIN_SFT_INLINE __m256i narrowed() const {
    const __m512i bits = _mm512_castps_si512(v);
    const __m512i lsb = _mm512_and_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(1));
    const __m512i rounded =
        _mm512_add_epi32(bits, _mm512_add_epi32(lsb, _mm512_set1_epi32(0x7FFF)));
    const __mmask16 nan = _mm512_cmp_ps_mask(v, v, _CMP_UNORD_Q);
    return _mm512_cvtepi32_epi16(
        _mm512_mask_mov_epi32(_mm512_srli_epi32(rounded, 16), nan, _mm512_set1_epi32(0x7FC0)));
  }
  TRAIN_SFT_INLINE void store(bf16_bits* p) const {
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), narrowed());
  }
  TRAIN_SFT_INLINE void store(bf16_bits* p, int64_t n) const {
    _mm256_mask_storeu_epi16(p, first(n), narrowed());
  }
  // The first n lanes, the others zero.
  TRAIN_SFT_INLINE Vec kept(int64_t n) const { return {_mm512_maskz_mov_ps(first(n), v)}; }
  // The first n lanes, then those of rest.
  TRAIN_SFT_INLINE Vec then(Vec rest, int64_t n) const {
    return {_mm512_mask_mov_ps(rest.v, first(n), v)};
  }
  TRAIN_SFT_INLINE float sum() const { return _mm512_reduce_add_ps(v); }
  TRAIN_SFT_INLINE float max() const { return _mm512_reduce_max_ps(v); }
  TRAIN_SFT_INLINE float first_lane() const { return _mm512_cvtss_f32(v); }
};

TRAIN_SFT_INLINE Vec operator+(Vec a, Vec b) {
  return {_mm512_add_ps(a.v, b.v)};
}
TRAIN_SFT_INLINE Vec operator-(Vec a, Vec b) {
  return {_mm512_sub_ps(a.v, b.v)};
}
TRAIN_SFT_INLINE Vec operator*(Vec a, Vec b) {
  return {_mm512_mul_ps(a.v, b.v)};
}
TRAIN_SFT_INLINE Vec operator/(Vec a, Vec b) {
  return {_mm512_div_ps(a.v, b.v)};
}
// a b + c
TRAIN_SFT_INLINE Vec fma(Vec a, Vec b, Vec c) {
  return {_mm512_fmadd_ps(a.v, b.v, c.v)};
}
// c - a b
TRAIN_SFT_INLINE Vec fnma(Vec a, Vec b, Vec c) {
  return {_mm512_fnmadd_ps(a.v, b.v, c.v)};
}
// The second operand when either is NaN.
TRAIN_SFT_INLINE Vec max(Vec a, Vec b) {
  return {_mm512_max_ps(a.v, b.v)};
}
TRAIN_SFT_INLINE Vec min(Vec a, Vec b) {
  return {_mm512_min_ps(a.v, b.v)};
}
TRAIN_SFT_INLINE Vec sqrt(Vec a) {
  return {_mm512_sqrt_ps(a.v)};
}
TRAIN_SFT_INLINE Vec round(Vec a) {
  return {_mm512_roundscale_ps(a.v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC)};
}
// a where x < y, else b
TRAIN_SFT_INLINE Vec where_less(Vec x, Vec y, Vec a, Vec b) {
  return {_mm512_mask_mov_ps(b.v, _mm512_cmp_ps_mask(x.v, y.v, _CMP_LT_OQ), a.v)};
}
// a 2^n for integral n
TRAIN_SFT_INLINE Vec scale_by_power(Vec a, Vec n) {
  return {_mm512_scalef_ps(a.v, n.v)};
}

struct IntVec {
  __m512i v;
  TRAIN_SFT_INLINE static IntVec all(uint32_t x) {
    return {_mm512_set1_epi32(static_cast<int>(x))};
  }
  TRAIN_SFT_INLINE static IntVec lanes() {
    return {_mm512_set_epi32(15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0)};
  }
  template <int kBits>
  TRAIN_SFT_INLINE IntVec shifted_right() const {
    return {_mm512_srli_epi32(v, kBits)};
  }
};
TRAIN_SFT_INLINE IntVec operator+(IntVec a, IntVec b) {
  return {_mm512_add_epi32(a.v, b.v)};
}
TRAIN_SFT_INLINE IntVec operator*(IntVec a, IntVec b) {
  return {_mm512_mullo_epi32(a.v, b.v)};
}
TRAIN_SFT_INLINE IntVec operator^(IntVec a, IntVec b) {
  return {_mm512_xor_si512(a.v, b.v)};
}
// a where x < y (signed), else 0
TRAIN_SFT_INLINE Vec zero_unless_less(IntVec x, IntVec y, Vec a) {
  return {_mm512_maskz_mov_ps(_mm512_cmplt_epi32_mask(x.v, y.v), a.v)};
}

#else  // AVX2

struct Vec {
  static constexpr int64_t width = 8;
  __m256 v;

  TRAIN_SFT_INLINE static __m256i first(int64_t n) {
    const __m256i lane = _mm256_set_epi32(7, 6, 5, 4, 3, 2, 1, 0);
    return _mm256_cmpgt_epi32(_mm256_set1_epi32(static_cast<int>(n)), lane);
  }
  TRAIN_SFT_INLINE static Vec zero() { return {_mm256_setzero_ps()}; }
  TRAIN_SFT_INLINE static Vec all(float x) { return {_mm256_set1_ps(x)}; }
  TRAIN_SFT_INLINE static Vec load(const float* p) { return {_mm256_loadu_ps(p)}; }
  TRAIN_SFT_INLINE static Vec load(const float* p, int64_t n) {
    return {_mm256_maskload_ps(p, first(n))};
  }
  TRAIN_SFT_INLINE static Vec widen(__m128i bits) {
    return {_mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(bits), 16))};
  }
  TRAIN_SFT_INLINE static Vec load(const bf16_bits* p) {
    return widen(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
  }
  TRAIN_SFT_INLINE static Vec load(const bf16_bits* p, int64_t n) {
    if (n >= 4) {  // the first four, and the last four without those in common
      const __m128i low = _mm_loadl_epi64(reinterpret_cast<const __m128i*>(p));
      const __m128i high = _mm_loadl_epi64(reinterpret_cast<const __m128i*>(p + n - 4));
      const __m128i common = _mm_cvtsi64_si128((8 - n) * 16);
      return widen(_mm_unpacklo_epi64(low, _mm_srl_epi64(high, common)));
    }
    alignas(16) bf16_bits part[width] = {};
    for (int64_t i = 0; i < n; ++i) part[i] = p[i];
    return widen(_mm_load_si128(reinterpret_cast<const __m128i*>(part)));
  }
  TRAIN_SFT_INLINE void store(float* p) const { _mm256_storeu_ps(p, v); }
  TRAIN_SFT_INLINE void store(float* p, int64_t n) const { _mm256_maskstore_ps(p, first(n), v); }
  // Round to nearest even; NaN becomes the quiet NaN.
  TRAIN_SFT_INLINE __m128i narrowed() const {
    const __m256i bits = _mm256_castps_si256(v);
    const __m256i lsb = _mm256_and_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(1));
    const __m256i rounded =
        _mm256_add_epi32(bits, _mm256_add_epi32(lsb, _mm256_set1_epi32(0x7FFF)));
    const __m256i nan = _mm256_castps_si256(_mm256_cmp_ps(v, v, _CMP_UNORD_Q));
    const __m256i words =
        _mm256_blendv_epi8(_mm256_srli_epi32(rounded, 16), _mm256_set1_epi32(0x7FC0), nan);
    return _mm_packus_epi32(_mm256_castsi256_si128(words), _mm256_extracti128_si256(words, 1));
  }
  TRAIN_SFT_INLINE void store(bf16_bits* p) const {
    _mm_storeu_si128(reinterpret_cast<__m128i*>(p), narrowed());
  }
  TRAIN_SFT_INLINE void store(bf16_bits* p, int64_t n) const {
    alignas(16) bf16_bits part[width];
    _mm_store_si128(reinterpret_cast<__m128i*>(part), narrowed());
    for (int64_t i = 0; i < n; ++i) p[i] = part[i];
  }
  // The first n lanes, the others zero.
  TRAIN_SFT_INLINE Vec kept(int64_t n) const {
    return {_mm256_and_ps(v, _mm256_castsi256_ps(first(n)))};
  }
  // The first n lanes, then those of rest.
  TRAIN_SFT_INLINE Vec then(Vec rest, int64_t n) const {
    return {_mm256_blendv_ps(rest.v, v, _mm256_castsi256_ps(first(n)))};
  }
  TRAIN_SFT_INLINE float sum() const {
    __m128 s = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
    s = _mm_add_ps(s, _mm_movehl_ps(s, s));
    return _mm_cvtss_f32(_mm_add_ss(s, _mm_movehdup_ps(s)));
  }
  TRAIN_SFT_INLINE float max() const {
    __m128 s = _mm_max_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
    s = _mm_max_ps(s, _mm_movehl_ps(s, s));
    return _mm_cvtss_f32(_mm_max_ss(s, _mm_movehdup_ps(s)));
  }
  TRAIN_SFT_INLINE float first_lane() const { return _mm256_cvtss_f32(v); }
};

TRAIN_SFT_INLINE Vec operator+(Vec a, Vec b) {
  return {_mm256_add_ps(a.v, b.v)};
}
TRAIN_SFT_INLINE Vec operator-(Vec a, Vec b) {
  return {_mm256_sub_ps(a.v, b.v)};
}
TRAIN_SFT_INLINE Vec operator*(Vec a, Vec b) {
  return {_mm256_mul_ps(a.v, b.v)};
}
TRAIN_SFT_INLINE Vec operator/(Vec a, Vec b) {
  return {_mm256_div_ps(a.v, b.v)};
}
// a b + c
TRAIN_SFT_INLINE Vec fma(Vec a, Vec b, Vec c) {
  return {_mm256_fmadd_ps(a.v, b.v, c.v)};
}
// c - a b
TRAIN_SFT_INLINE Vec fnma(Vec a, Vec b, Vec c) {
  return {_mm256_fnmadd_ps(a.v, b.v, c.v)};
}
// The second operand when either is NaN.
TRAIN_SFT_INLINE Vec max(Vec a, Vec b) {
  return {_mm256_max_ps(a.v, b.v)};
}
TRAIN_SFT_INLINE Vec min(Vec a, Vec b) {
  return {_mm256_min_ps(a.v, b.v)};
}
TRAIN_SFT_INLINE Vec sqrt(Vec a) {
  return {_mm256_sqrt_ps(a.v)};
}
TRAIN_SFT_INLINE Vec round(Vec a) {
  return {_mm256_round_ps(a.v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC)};
}
// a where x < y, else b
TRAIN_SFT_INLINE Vec where_less(Vec x, Vec y, Vec a, Vec b) {
  return {_mm256_blendv_ps(b.v, a.v, _mm256_cmp_ps(x.v, y.v, _CMP_LT_OQ))};
}
// a 2^n for integral |n| ≤ 250, in two steps so that 2^128 and subnormals come out right
TRAIN_SFT_INLINE Vec scale_by_power(Vec a, Vec n) {
  const __m256i whole = _mm256_cvtps_epi32(n.v), half = _mm256_srai_epi32(whole, 1);
  auto power = [](__m256i e) TRAIN_SFT_INLINE_LAMBDA {
    const __m256i biased = _mm256_add_epi32(e, _mm256_set1_epi32(127));
    return _mm256_castsi256_ps(_mm256_slli_epi32(biased, 23));
  };
  return {_mm256_mul_ps(_mm256_mul_ps(a.v, power(half)), power(_mm256_sub_epi32(whole, half)))};
}

struct IntVec {
  __m256i v;
  TRAIN_SFT_INLINE static IntVec all(uint32_t x) {
    return {_mm256_set1_epi32(static_cast<int>(x))};
  }
  TRAIN_SFT_INLINE static IntVec lanes() { return {_mm256_set_epi32(7, 6, 5, 4, 3, 2, 1, 0)}; }
  template <int kBits>
  TRAIN_SFT_INLINE IntVec shifted_right() const {
    return {_mm256_srli_epi32(v, kBits)};
  }
};
TRAIN_SFT_INLINE IntVec operator+(IntVec a, IntVec b) {
  return {_mm256_add_epi32(a.v, b.v)};
}
TRAIN_SFT_INLINE IntVec operator*(IntVec a, IntVec b) {
  return {_mm256_mullo_epi32(a.v, b.v)};
}
TRAIN_SFT_INLINE IntVec operator^(IntVec a, IntVec b) {
  return {_mm256_xor_si256(a.v, b.v)};
}
// a where x < y (signed), else 0
TRAIN_SFT_INLINE Vec zero_unless_less(IntVec x, IntVec y, Vec a) {
  return {_mm256_and_ps(a.v, _mm256_castsi256_ps(_mm256_cmpgt_epi32(y.v, x.v)))};
}

#endif

// e^x to within 2 ulp: x = n ln 2 + r, a Taylor polynomial of degree 7 on |r| ≤ ln 2 / 2. 0 below
// the smallest normal result, infinity above the largest, NaN of NaN.
TRAIN_SFT_INLINE Vec exp(Vec x) {
  const Vec clamped = max(Vec::all(-104.0f), min(Vec::all(89.0f), x));
  const Vec n = round(clamped * Vec::all(1.44269504088896341f));
  Vec r = fnma(n, Vec::all(0.693359375f), clamped);
  r = fnma(n, Vec::all(-2.12194440e-4f), r);
  Vec p = Vec::all(1.0f / 5040);
  p = fma(p, r, Vec::all(1.0f / 720));
  p = fma(p, r, Vec::all(1.0f / 120));
  p = fma(p, r, Vec::all(1.0f / 24));
  p = fma(p, r, Vec::all(1.0f / 6));
  p = fma(p, r, Vec::all(0.5f));
  p = fma(p, r, Vec::all(1.0f));
  p = fma(p, r, Vec::all(1.0f));
  return where_less(x, Vec::all(-87.3365478515625f), Vec::zero(), scale_by_power(p, n));
}

TRAIN_SFT_INLINE Vec sigmoid(Vec x) {
  return Vec::all(1.0f) / (Vec::all(1.0f) + exp(Vec::zero() - x));
}

// Calls f(offset, n) over [0, count) in whole vectors (n = 0: all lanes) and a last part of n
// lanes.
template <typename F>
TRAIN_SFT_INLINE void for_lanes(int64_t count, F&& f) {
  int64_t i = 0;
  for (; i + Vec::width <= count; i += Vec::width) f(i, int64_t{0});
  if (i < count) f(i, count - i);
}

TRAIN_SFT_INLINE float widen1(float x) {
  return x;
}
TRAIN_SFT_INLINE float widen1(bf16_bits x) {
  const uint32_t bits = uint32_t{x} << 16;
  float value;
  __builtin_memcpy(&value, &bits, 4);
  return value;
}

template <typename T>
TRAIN_SFT_INLINE Vec load(const T* p, int64_t n) {
  return n == 0 ? Vec::load(p) : Vec::load(p, n);
}

template <typename T>
TRAIN_SFT_INLINE void store(T* p, Vec x, int64_t n) {
  n == 0 ? x.store(p) : x.store(p, n);
}

// n as for_lanes gives it.
TRAIN_SFT_INLINE Vec kept(Vec x, int64_t n) {
  return n == 0 ? x : x.kept(n);
}

// Calls f with the integral constants 0…N-1: indices the compiler sees, so that arrays of vectors
// live in registers.
template <int I>
struct Index {
  static constexpr int value = I;
  TRAIN_SFT_INLINE constexpr operator int() const { return I; }
};
template <int N, int I = 0, typename F>
TRAIN_SFT_INLINE void unrolled(F&& f) {
  if constexpr (I < N) {
    f(Index<I>{});
    unrolled<N, I + 1>(f);
  }
}

}  // namespace
}  // namespace train_sft::ops::TRAIN_SFT_ISA
