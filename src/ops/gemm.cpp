#include "ops/gemm.h"

#include <utility>

#include "ops/scratch.h"
#include "train_sft/ops/kernels.h"

extern "C" void sgemm_(const char* transa, const char* transb, const int* m, const int* n,
                       const int* k, const float* alpha, const float* a, const int* lda,
                       const float* b, const int* ldb, const float* beta, float* c, const int* ldc);

namespace train_sft::ops {
namespace {

template <typename T, typename Out>
void gemm_reference(Out* out, int64_t stride, int64_t M, int64_t N, int64_t K, const Operand<T>& a,
                    const Operand<T>& b, bool accumulate) {
  using A = Accumulate<T>;
  auto at = [](const Operand<T>& x, int64_t row, int64_t column) {
    return A(x.transposed ? x.data[column * x.stride + row] : x.data[row * x.stride + column]);
  };
#pragma omp parallel for schedule(static)
  for (int64_t m = 0; m < M; ++m) {
    for (int64_t n = 0; n < N; ++n) {
      A sum = 0;
      for (int64_t k = 0; k < K; ++k) sum += at(a, m, k) * at(b, k, n);
      out[m * stride + n] = accumulate ? A(out[m * stride + n]) + sum : sum;
    }
  }
}

// BLAS is column-major: it computes outᵀ = op(b)ᵀ op(a)ᵀ, which is the same memory.
void gemm_blas(float* out, int64_t stride, int64_t M, int64_t N, int64_t K, const Operand<float>& a,
               const Operand<float>& b, bool accumulate) {
  const int m = static_cast<int>(N), n = static_cast<int>(M), k = static_cast<int>(K);
  const int lda = static_cast<int>(b.stride), ldb = static_cast<int>(a.stride);
  const int ldc = static_cast<int>(stride);
  const float alpha = 1, beta = accumulate ? 1 : 0;
  sgemm_(b.transposed ? "T" : "N", a.transposed ? "T" : "N", &m, &n, &k, &alpha, b.data, &lda,
         a.data, &ldb, &beta, out, &ldc);
}

// op(x) has the given rows and columns; the copy keeps x's own layout, without gaps.
Operand<float> widened(const Operand<bf16>& x, int64_t rows, int64_t columns, Scratch& scratch) {
  if (x.transposed) std::swap(rows, columns);
  float* wide = scratch.get<float>(rows * columns);
#pragma omp parallel for schedule(static)
  for (int64_t r = 0; r < rows; ++r) {
    for (int64_t c = 0; c < columns; ++c) wide[r * columns + c] = x.data[r * x.stride + c];
  }
  return {wide, columns, x.transposed};
}

template <typename Out>
void gemm_widened(Out* out, int64_t stride, int64_t M, int64_t N, int64_t K, const Operand<bf16>& a,
                  const Operand<bf16>& b, bool accumulate) {
  thread_local Scratch wide_a, wide_b, wide_out;
  const Operand<float> fa = widened(a, M, K, wide_a), fb = widened(b, K, N, wide_b);
  if constexpr (std::is_same_v<Out, float>) {
    gemm_blas(out, stride, M, N, K, fa, fb, accumulate);
  } else {
    float* product = wide_out.get<float>(M * N);
    gemm_blas(product, N, M, N, K, fa, fb, false);
#pragma omp parallel for schedule(static)
    for (int64_t m = 0; m < M; ++m) {
      for (int64_t n = 0; n < N; ++n) {
        const float before = accumulate ? float(out[m * stride + n]) : 0;
        out[m * stride + n] = before + product[m * N + n];
      }
    }
  }
}

}  // namespace

template <typename T, typename Out>
void gemm(Out* out, int64_t stride, int64_t M, int64_t N, int64_t K, const Operand<T>& a,
          const Operand<T>& b, bool accumulate) {
  if (M == 0 || N == 0) return;
  if constexpr (std::is_same_v<T, double>) {
    gemm_reference(out, stride, M, N, K, a, b, accumulate);
  } else if (kernels() == Kernels::reference) {
    gemm_reference(out, stride, M, N, K, a, b, accumulate);
  } else if constexpr (std::is_same_v<T, float>) {
    gemm_blas(out, stride, M, N, K, a, b, accumulate);
  } else {
    gemm_widened(out, stride, M, N, K, a, b, accumulate);
  }
}

template void gemm(double*, int64_t, int64_t, int64_t, int64_t, const Operand<double>&,
                   const Operand<double>&, bool);
template void gemm(float*, int64_t, int64_t, int64_t, int64_t, const Operand<float>&,
                   const Operand<float>&, bool);
template void gemm(bf16*, int64_t, int64_t, int64_t, int64_t, const Operand<bf16>&,
                   const Operand<bf16>&, bool);
template void gemm(float*, int64_t, int64_t, int64_t, int64_t, const Operand<bf16>&,
                   const Operand<bf16>&, bool);

}  // namespace train_sft::ops
