// 8-bit floating point (Micikevicius et al. 2022, "FP8 formats for deep learning"): e4m3fn (no
// infinity, largest 448) and e5m2 (largest 57,344), rounded to nearest even and saturating. The
// same code on the CPU and in kernels; no header of torch.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

#include "train_sft/ops/device_state.h"

namespace train_sft::ops {

enum class Fp8Format : int32_t { e4m3 = 0, e5m2 = 1 };

inline constexpr float kLargestE4m3 = 448.0F, kLargestE5m2 = 57344.0F;

TRAIN_SFT_DEVICE inline float fp8_largest(Fp8Format format) {
  return format == Fp8Format::e4m3 ? kLargestE4m3 : kLargestE5m2;
}

namespace fp8_detail {

TRAIN_SFT_DEVICE inline uint32_t bits_of(float x) {
  uint32_t bits;
  memcpy(&bits, &x, sizeof(bits));
  return bits;
}
TRAIN_SFT_DEVICE inline float of_bits(uint32_t bits) {
  float x;
  memcpy(&x, &bits, sizeof(x));
  return x;
}

// kMantissa bits after the point, exponents from 1 - kBias; kLargest the bits of the largest as a
// float.
template <uint32_t kMantissa, uint32_t kBias, uint32_t kLargest>
TRAIN_SFT_DEVICE inline uint8_t round_to(float x) {
  uint32_t bits = bits_of(x);
  const uint32_t sign = (bits >> 24) & 0x80;
  bits &= 0x7FFFFFFF;
  if (bits > 0x7F800000) return static_cast<uint8_t>(sign | 0x7F);  // not a number
  if (bits > kLargest) bits = kLargest;                             // infinity, too
  constexpr uint32_t kSmallestNormal = (128 - kBias) << 23;
  uint32_t result;
  if (bits < kSmallestNormal) {
    // Adding the number whose last bit is that of the subnormals rounds to them.
    constexpr uint32_t kMagic = (128 - kBias + 23 - kMantissa) << 23;
    result = bits_of(of_bits(bits) + of_bits(kMagic)) - kMagic;
  } else {
    constexpr uint32_t kDropped = 23 - kMantissa;
    const uint32_t odd = (bits >> kDropped) & 1;
    bits += (1U << (kDropped - 1)) - 1 + odd;
    result = (bits >> kDropped) - ((127 - kBias) << kMantissa);
  }
  return static_cast<uint8_t>(sign | result);
}

template <uint32_t kMantissa, uint32_t kBias>
TRAIN_SFT_DEVICE inline float value_of(uint8_t stored) {
  const uint32_t sign = static_cast<uint32_t>(stored & 0x80) << 24;
  const uint32_t rest = stored & 0x7F;
  const uint32_t exponent = rest >> kMantissa, mantissa = rest & ((1U << kMantissa) - 1);
  if (exponent == 0) {
    const float step = of_bits((128 - kBias - kMantissa) << 23);
    const float x = static_cast<float>(mantissa) * step;
    return sign != 0 ? -x : x;
  }
  return of_bits(sign | ((exponent + 127 - kBias) << 23) | (mantissa << (23 - kMantissa)));
}

}  // namespace fp8_detail

// NaN stays NaN; what is too large, infinity included, becomes the largest.
TRAIN_SFT_DEVICE inline uint8_t fp8_round(float x, Fp8Format format) {
  return format == Fp8Format::e4m3 ? fp8_detail::round_to<3, 7, 0x43E00000>(x)
                                   : fp8_detail::round_to<2, 15, 0x47600000>(x);
}

TRAIN_SFT_DEVICE inline float fp8_value(uint8_t stored, Fp8Format format) {
  if (format == Fp8Format::e4m3) {
    if ((stored & 0x7F) == 0x7F) return fp8_detail::of_bits(0x7FC00000);
    return fp8_detail::value_of<3, 7>(stored);
  }
  if ((stored & 0x7F) > 0x7C) return fp8_detail::of_bits(0x7FC00000);
  if ((stored & 0x7F) == 0x7C)
    return fp8_detail::of_bits(0x7F800000 | (static_cast<uint32_t>(stored & 0x80) << 24));
  return fp8_detail::value_of<2, 15>(stored);
}

// The scale that brings amax · 2^margin to the largest number of a format. An amax of 0, infinity
// or NaN says nothing: the scale stays.
TRAIN_SFT_DEVICE inline float fp8_scale(float amax, float largest, float margin, float previous) {
  if (!(amax > 0) || amax > 3.402823466e38F) return previous;
  const float scale = largest / (amax * std::exp2(margin));
  const float most = 1.2676506e30F;  // 2^100: its inverse is still a normal number
  return scale < most ? scale : most;
}

}  // namespace train_sft::ops
