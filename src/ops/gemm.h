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

// out [M, N] (rows `stride` apart) = op(a) [M, K] · op(b) [K, N], added when accumulate.
// T double: plain loops. Out: T, or float for T bfloat16. Products are summed in Accumulate<T>.
template <typename T, typename Out>
void gemm(Out* out, int64_t stride, int64_t M, int64_t N, int64_t K, const Operand<T>& a,
          const Operand<T>& b, bool accumulate);

}  // namespace train_sft::ops
