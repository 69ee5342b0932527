#include "ops/gemm.h"

#include "ops/fast.h"

namespace train_sft::ops {
namespace {

template <typename T, typename Out>
void gemm_reference(Out* out, int64_t stride, GemmShape shape, const Operand<T>& a,
                    const Operand<T>& b, const T* bias, bool accumulate) {
  using A = Accumulate<T>;
  auto at = [](const Operand<T>& x, int64_t row, int64_t column) {
    return A(x.transposed ? x.data[column * x.stride + row] : x.data[row * x.stride + column]);
  };
  for (int64_t m = 0; m < shape.M; ++m) {
    for (int64_t n = 0; n < shape.N; ++n) {
      A sum = 0;
      for (int64_t k = 0; k < shape.K; ++k) sum += at(a, m, k) * at(b, k, n);
      if (bias != nullptr) sum += A(bias[n]);
      if (accumulate) sum += A(out[m * stride + n]);
      out[m * stride + n] = static_cast<Out>(sum);
    }
  }
}

}  // namespace

template <typename T, typename Out>
void gemm(Out* out, int64_t stride, GemmShape shape, const Operand<T>& a, const Operand<T>& b,
          const T* bias, bool accumulate) {
  if (shape.M == 0 || shape.N == 0) return;
  if constexpr (has_fast<T>) {
    if (const auto* fast = fast_kernels<T>()) {
      const auto function = [&] {
        if constexpr (std::is_same_v<T, Out>)
          return fast->gemm;
        else
          return fast->gemm_to_float;
      }();
      function(raw(out), stride, {shape.M, shape.N, shape.K}, {raw(a.data), a.stride, a.transposed},
               {raw(b.data), b.stride, b.transposed}, raw(bias), accumulate);
      return;
    }
  }
  gemm_reference(out, stride, shape, a, b, bias, accumulate);
}

template void gemm(double*, int64_t, GemmShape, const Operand<double>&, const Operand<double>&,
                   const double*, bool);
template void gemm(float*, int64_t, GemmShape, const Operand<float>&, const Operand<float>&,
                   const float*, bool);
template void gemm(bf16*, int64_t, GemmShape, const Operand<bf16>&, const Operand<bf16>&,
                   const bf16*, bool);
template void gemm(float*, int64_t, GemmShape, const Operand<bf16>&, const Operand<bf16>&,
                   const bf16*, bool);

}  // namespace train_sft::ops
