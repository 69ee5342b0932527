#include "interop/ggml_blocks.h"

#include <cmath>
#include <cstdint>
#include <cstring>

#include "train_sft/interop/tensor_types.h"

namespace train_sft::ggml {
namespace {

uint32_t byte_at(const std::byte* bytes, size_t i) {
  return std::to_integer<uint32_t>(bytes[i]);
}

float half_at(const std::byte* bytes) {
  return float_of_half(static_cast<uint16_t>(byte_at(bytes, 0) | byte_at(bytes, 1) << 8));
}

uint32_t u32_at(const std::byte* bytes) {
  return byte_at(bytes, 0) | byte_at(bytes, 1) << 8 | byte_at(bytes, 2) << 16 |
         byte_at(bytes, 3) << 24;
}

float small(uint32_t value) {
  return static_cast<float>(static_cast<int32_t>(value));
}

// The 6-bit scale and minimum of sub-block j (of 8), packed into 12 bytes: the first four in the
// low six bits, the others in the last four bytes with their top two bits over the first eight.
struct ScaleMin {
  float scale, min;
};
ScaleMin scale_min(const std::byte* packed, size_t j) {
  if (j < 4) return {small(byte_at(packed, j) & 63), small(byte_at(packed, j + 4) & 63)};
  return {small((byte_at(packed, j + 4) & 15) | byte_at(packed, j - 4) >> 6 << 4),
          small(byte_at(packed, j + 4) >> 4 | byte_at(packed, j) >> 6 << 4)};
}

}  // namespace

void dequantize_q4_0(const std::byte* block, float* out) {
  const float d = half_at(block);
  for (size_t i = 0; i < 16; ++i) {
    const uint32_t q = byte_at(block + 2, i);
    out[i] = (small(q & 15) - 8) * d;
    out[i + 16] = (small(q >> 4) - 8) * d;
  }
}

void dequantize_q4_1(const std::byte* block, float* out) {
  const float d = half_at(block), m = half_at(block + 2);
  for (size_t i = 0; i < 16; ++i) {
    const uint32_t q = byte_at(block + 4, i);
    out[i] = small(q & 15) * d + m;
    out[i + 16] = small(q >> 4) * d + m;
  }
}

void dequantize_q5_0(const std::byte* block, float* out) {
  const float d = half_at(block);
  const uint32_t high = u32_at(block + 2);
  for (size_t i = 0; i < 16; ++i) {
    const uint32_t q = byte_at(block + 6, i);
    out[i] = (small((q & 15) | (high >> i & 1) << 4) - 16) * d;
    out[i + 16] = (small(q >> 4 | (high >> (i + 16) & 1) << 4) - 16) * d;
  }
}

void dequantize_q5_1(const std::byte* block, float* out) {
  const float d = half_at(block), m = half_at(block + 2);
  const uint32_t high = u32_at(block + 4);
  for (size_t i = 0; i < 16; ++i) {
    const uint32_t q = byte_at(block + 8, i);
    out[i] = small((q & 15) | (high >> i & 1) << 4) * d + m;
    out[i + 16] = small(q >> 4 | (high >> (i + 16) & 1) << 4) * d + m;
  }
}

void dequantize_q8_0(const std::byte* block, float* out) {
  const float d = half_at(block);
  for (size_t i = 0; i < 32; ++i)
    out[i] = static_cast<float>(std::to_integer<int8_t>(block[2 + i])) * d;
}

// d, dmin, 12 bytes of scales, 128 bytes of low bits; Q5_K has 32 bytes of fifth bits before them.
void dequantize_q4_k(const std::byte* block, float* out) {
  const float d = half_at(block), dmin = half_at(block + 2);
  for (size_t j = 0; j < 8; ++j) {
    const ScaleMin s = scale_min(block + 4, j);
    const float scale = d * s.scale, min = dmin * s.min;
    for (size_t i = 0; i < 32; ++i) {
      const uint32_t q = byte_at(block + 16, j / 2 * 32 + i);
      out[j * 32 + i] = scale * small(j % 2 == 0 ? q & 15 : q >> 4) - min;
    }
  }
}

void dequantize_q5_k(const std::byte* block, float* out) {
  const float d = half_at(block), dmin = half_at(block + 2);
  for (size_t j = 0; j < 8; ++j) {
    const ScaleMin s = scale_min(block + 4, j);
    const float scale = d * s.scale, min = dmin * s.min;
    for (size_t i = 0; i < 32; ++i) {
      const uint32_t low = byte_at(block + 48, j / 2 * 32 + i);
      const uint32_t high = byte_at(block + 16, i) >> j & 1;
      out[j * 32 + i] = scale * small((j % 2 == 0 ? low & 15 : low >> 4) | high << 4) - min;
    }
  }
}

// 128 bytes of low four bits, 64 of high two bits, 16 scales of one byte, d. Each half of the block
// is four runs of 32 values.
void dequantize_q6_k(const std::byte* block, float* out) {
  const float d = half_at(block + 208);
  for (size_t half = 0; half < 2; ++half) {
    const std::byte* low = block + half * 64;
    const std::byte* high = block + 128 + half * 32;
    const std::byte* scales = block + 192 + half * 8;
    for (size_t run = 0; run < 4; ++run) {
      for (size_t i = 0; i < 32; ++i) {
        const uint32_t l = byte_at(low, run % 2 * 32 + i);
        const uint32_t q = (run < 2 ? l & 15 : l >> 4) | (byte_at(high, i) >> (2 * run) & 3) << 4;
        const float scale =
            d * static_cast<float>(std::to_integer<int8_t>(scales[2 * run + i / 16]));
        out[half * 128 + run * 32 + i] = scale * (small(q) - 32);
      }
    }
  }
}

void quantize_q8_0(const float* values, std::byte* block) {
  float largest = 0;
  for (size_t i = 0; i < 32; ++i) largest = std::fmax(largest, std::fabs(values[i]));
  const float d = largest / 127.0f;
  const float inverse = d != 0 ? 1.0f / d : 0.0f;
  const uint16_t half = half_of_float(d);
  std::memcpy(block, &half, sizeof half);
  for (size_t i = 0; i < 32; ++i)
    block[2 + i] = static_cast<std::byte>(static_cast<int8_t>(std::round(values[i] * inverse)));
}

}  // namespace train_sft::ggml
