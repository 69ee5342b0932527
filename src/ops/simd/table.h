// The fast kernels of one instruction set as a table of functions on raw pointers. bfloat16 is
// uint16_t here: kernel files include no library header (see vec.h).
#pragma once

#include <cstdint>

namespace train_sft::ops::simd {

struct GemmShape {
  int64_t M, N, K;
};

template <typename T>
struct GemmOperand {
  const T* data;
  int64_t stride;
  bool transposed;
};

// T: float or uint16_t (bfloat16).
template <typename T>
struct Kernels {
  // out [M, N] = a [M, K] b [K, N] (+ bias [N]) (+ out when accumulate)
  void (*gemm)(T* out, int64_t stride, GemmShape shape, GemmOperand<T> a, GemmOperand<T> b,
               const T* bias, bool accumulate);
  void (*gemm_to_float)(float* out, int64_t stride, GemmShape shape, GemmOperand<T> a,
                        GemmOperand<T> b, const T* bias, bool accumulate);
};

struct Table {
  Kernels<float> f32;
  Kernels<uint16_t> bf16;
};

}  // namespace train_sft::ops::simd
