// Matrix products by cuBLASLt: plans are made once for each shape and kept.
#pragma once

#include <cuda_runtime_api.h>
#include <library_types.h>

#include <cstdint>

namespace train_sft::ops::cuda {

// out [M, N] = (or +=) alpha · op(a) [M, K] · op(b) [K, N] (+ bias [N]); all row-major, rows
// `stride` elements apart.
struct MatmulOperand {
  const void* data = nullptr;
  cudaDataType_t type = CUDA_R_16BF;
  int64_t stride = 0;
  bool transposed = false;
  const float* scale = nullptr;  // device; of 8-bit operands: value = stored × scale
};

struct Matmul {
  void* out = nullptr;
  cudaDataType_t out_type = CUDA_R_16BF;
  int64_t stride = 0;
  int64_t M = 0, N = 0, K = 0;
  MatmulOperand a, b;
  const void* bias = nullptr;  // of bias_type
  cudaDataType_t bias_type = CUDA_R_16BF;
  float alpha = 1;
  bool accumulate = false;
};

// Throws c10::Error when cuBLASLt knows no way.
void matmul(const Matmul& product);

}  // namespace train_sft::ops::cuda
