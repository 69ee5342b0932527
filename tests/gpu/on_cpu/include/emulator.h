// Runs CUDA kernels on a CPU, thread by thread: each thread of a block is a fibre that runs until
// it waits for others, at a barrier or in a warp's exchange. Blocks follow one another. Every
// second launch runs threads and blocks backwards, so that what hangs on their order shows. A
// thread that waits for one that has ended, or for one that waits elsewhere, ends the test.
//
// So indices, reductions, edges and barriers are tested where there is no GPU. What it cannot show:
// races within a stretch between barriers, alignment, speed, and the rounding of the GPU's own
// instructions.
#pragma once

#include <bit>
#include <math.h>

#include <cstdint>
#include <functional>
#include <type_traits>

struct dim3 {
  uint32_t x = 1, y = 1, z = 1;
  dim3(uint32_t x_, uint32_t y_ = 1, uint32_t z_ = 1) : x(x_), y(y_), z(z_) {}
};
struct alignas(8) float2 {
  float x, y;
};
struct alignas(16) float4 {
  float x, y, z, w;
};
struct alignas(8) uint2 {
  uint32_t x, y;
};
struct alignas(16) uint4 {
  uint32_t x, y, z, w;
};
inline float2 make_float2(float x, float y) {
  return {x, y};
}
inline float4 make_float4(float x, float y, float z, float w) {
  return {x, y, z, w};
}
inline uint2 make_uint2(uint32_t x, uint32_t y) {
  return {x, y};
}
inline uint4 make_uint4(uint32_t x, uint32_t y, uint32_t z, uint32_t w) {
  return {x, y, z, w};
}

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __launch_bounds__(...)
#define __shared__ static
#define __align__(n) __attribute__((aligned(n)))

// Where the running thread is.
extern dim3 threadIdx, blockIdx, blockDim, gridDim;

namespace emulator {
void launch(dim3 grid, dim3 block, void* stream, const std::function<void()>& thread);
// Waits for the block; true when `any` was true for one of its threads.
bool block_barrier(bool any);
// Waits for the warp; what each of its lanes brought.
const uint64_t* exchange(uint64_t own);
int lane();
}  // namespace emulator

inline void __syncthreads() {
  emulator::block_barrier(false);
}
inline int __syncthreads_or(int any) {
  return emulator::block_barrier(any != 0) ? 1 : 0;
}
template <typename T>
T __shfl_xor_sync(uint32_t, T x, int offset) {
  using Bits = std::conditional_t<sizeof(T) == 8, uint64_t, uint32_t>;
  const uint64_t* all = emulator::exchange(std::bit_cast<Bits>(x));
  return std::bit_cast<T>(static_cast<Bits>(all[emulator::lane() ^ offset]));
}
inline uint32_t __reduce_max_sync(uint32_t, uint32_t x) {
  const uint64_t* all = emulator::exchange(x);
  uint64_t most = 0;
  for (int lane = 0; lane < 32; ++lane) most = most > all[lane] ? most : all[lane];
  return static_cast<uint32_t>(most);
}
inline void atomicMax(uint32_t* to, uint32_t x) {
  *to = *to > x ? *to : x;
}
inline float __uint_as_float(uint32_t x) {
  return std::bit_cast<float>(x);
}
inline uint32_t __float_as_uint(float x) {
  return std::bit_cast<uint32_t>(x);
}
inline float __expf(float x) {
  return expf(x);
}
