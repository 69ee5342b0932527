// From an op to its fast kernel, if one is to run.
#pragma once

#include <cstdint>
#include <type_traits>

#include "ops/dispatch.h"
#include "ops/simd/table.h"
#include "train_sft/ops/kernels.h"

namespace train_sft::ops {

// Null when the references are to run.
const simd::Table* simd_table();

template <typename T>
constexpr bool has_fast = !std::is_same_v<T, double>;

// The kernels for float or bfloat16; null when the references are to run.
template <typename T>
const auto* fast_kernels() {
  static_assert(has_fast<T>);
  if constexpr (std::is_same_v<T, float>) {
    const simd::Table* table = simd_table();
    return table == nullptr ? nullptr : &table->f32;
  } else {
    const simd::Table* table = simd_table();
    return table == nullptr ? nullptr : &table->bf16;
  }
}

// bfloat16 as the kernels see it.
inline float* raw(float* x) {
  return x;
}
inline const float* raw(const float* x) {
  return x;
}
inline uint16_t* raw(bf16* x) {
  return reinterpret_cast<uint16_t*>(x);
}
inline const uint16_t* raw(const bf16* x) {
  return reinterpret_cast<const uint16_t*>(x);
}

// Defined once per instruction set, in src/ops/simd.
namespace avx2 {
void fill(simd::Table& table);
}
namespace avx512 {
void fill(simd::Table& table);
}
namespace avx512bf16 {  // only the products of bfloat16, and attention, which consists of them
void fill_gemm(simd::Table& table);
void fill_attention(simd::Table& table);
}  // namespace avx512bf16

}  // namespace train_sft::ops
