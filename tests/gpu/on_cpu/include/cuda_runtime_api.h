// As much of CUDA's runtime as the kernels' host code uses, for running them on a CPU (see
// emulator.h).
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>

using cudaStream_t = void*;
enum cudaError_t { cudaSuccess = 0 };

inline cudaError_t cudaMemsetAsync(void* to, int value, size_t bytes, cudaStream_t) {
  std::memset(to, value, bytes);
  return cudaSuccess;
}
