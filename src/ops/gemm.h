// Matrix products on raw row-major pointers, under linear layers and cross-entropy.
#pragma once

#include <cstdint>

#include "ops/dispatch.h"

namespace train_sft::ops {

// A row-major matrix; `transposed` says that op(X) is its transpose. `stride` is that of its rows.
template <typename T>
struct Operand {
  const T* data;
  int64_t stride;
  bool transposed = false;
};

struct GemmShape {
  int64_t M, N, K;
};

// out [M, N] (rows `stride` apart) = op(a) [M, K] · op(b) [K, N] (+ bias [N]), added when
// accumulate. Out: T, or float for T bfloat16. Sums are in Accumulate<T>, each in the order of k by
// one thread.
template <typename T, typename Out>
void gemm(Out* out, int64_t stride, GemmShape shape, const Operand<T>& a, const Operand<T>& b,
          const T* bias, bool accumulate);

}  // namespace train_sft::ops
