// What the kernels share: 16-byte accesses, reductions, the grid.
#pragma once

#include <cuda_bf16.h>
#include <cuda_runtime.h>

#include <cstdint>

#include "ops/cuda/launch.h"

namespace train_sft::ops::cuda {
namespace {

using bf16 = __nv_bfloat16;

// W neighbouring elements as they lie in memory: 8 in one or two accesses of 16 bytes, or one.
template <typename T, int W>
struct Packed;

template <typename T>
struct Packed<T, 1> {
  T value;
  __device__ void load(const T* p) { value = *p; }
  __device__ void store(T* p) const { *p = value; }
  __device__ void to(float (&x)[1]) const { x[0] = static_cast<float>(value); }
  __device__ void from(const float (&x)[1]) { value = static_cast<T>(x[0]); }
};

template <>
struct Packed<bf16, 8> {
  uint4 value;
  __device__ void load(const bf16* p) { value = *reinterpret_cast<const uint4*>(p); }
  __device__ void store(bf16* p) const { *reinterpret_cast<uint4*>(p) = value; }
  // A bfloat16 is the upper half of a float.
  static __device__ void pair(float& low, float& high, uint32_t two) {
    low = __uint_as_float(two << 16);
    high = __uint_as_float(two & 0xFFFF0000u);
  }
  static __device__ uint32_t pair(float low, float high) {
    const __nv_bfloat162 two = __floats2bfloat162_rn(low, high);
    return *reinterpret_cast<const uint32_t*>(&two);
  }
  __device__ void to(float (&x)[8]) const {
    pair(x[0], x[1], value.x);
    pair(x[2], x[3], value.y);
    pair(x[4], x[5], value.z);
    pair(x[6], x[7], value.w);
  }
  __device__ void from(const float (&x)[8]) {
    value = make_uint4(pair(x[0], x[1]), pair(x[2], x[3]), pair(x[4], x[5]), pair(x[6], x[7]));
  }
};

template <>
struct Packed<float, 8> {
  float4 low, high;
  __device__ void load(const float* p) {
    low = reinterpret_cast<const float4*>(p)[0];
    high = reinterpret_cast<const float4*>(p)[1];
  }
  __device__ void store(float* p) const {
    reinterpret_cast<float4*>(p)[0] = low;
    reinterpret_cast<float4*>(p)[1] = high;
  }
  __device__ void to(float (&x)[8]) const {
    x[0] = low.x, x[1] = low.y, x[2] = low.z, x[3] = low.w;
    x[4] = high.x, x[5] = high.y, x[6] = high.z, x[7] = high.w;
  }
  __device__ void from(const float (&x)[8]) {
    low = make_float4(x[0], x[1], x[2], x[3]);
    high = make_float4(x[4], x[5], x[6], x[7]);
  }
};

template <typename T, int W>
__device__ void load(float (&x)[W], const T* p) {
  Packed<T, W> packed;
  packed.load(p);
  packed.to(x);
}

template <typename T, int W>
__device__ void store(T* p, const float (&x)[W]) {
  Packed<T, W> packed;
  packed.from(x);
  packed.store(p);
}

constexpr int kWarp = 32;
constexpr uint32_t kAllLanes = 0xFFFFFFFFu;

// The sum over a group of 2^k neighbouring lanes, in each of them; in a fixed order.
template <int Group = kWarp, typename T>
__device__ T lanes_sum(T x) {
#pragma unroll
  for (int offset = Group / 2; offset > 0; offset /= 2) x += __shfl_xor_sync(kAllLanes, x, offset);
  return x;
}

__device__ __forceinline__ float lanes_max(float x) {
#pragma unroll
  for (int offset = kWarp / 2; offset > 0; offset /= 2)
    x = fmaxf(x, __shfl_xor_sync(kAllLanes, x, offset));
  return x;
}

// The larger magnitude; NaN if either is.
__device__ __forceinline__ float magnitude(float highest, float x) {
  const uint32_t a = __float_as_uint(highest), b = __float_as_uint(x) & 0x7FFFFFFFu;
  return __uint_as_float(a > b ? a : b);
}

// The sum over a block in thread 0, in a fixed order.
template <int kThreads>
__device__ double block_sum(double x) {
  __shared__ double shared[kThreads / kWarp];
  x = lanes_sum(x);
  if (threadIdx.x % kWarp == 0) shared[threadIdx.x / kWarp] = x;
  __syncthreads();
  double total = 0;
  if (threadIdx.x == 0)
    for (int w = 0; w < kThreads / kWarp; ++w) total += shared[w];
  return total;
}

// Non-negative floats are ordered as their bits; NaN stands above all, and stays. The order in
// which blocks come does not matter.
template <int kThreads>
__device__ void raise(float* highest, float own) {
  __shared__ uint32_t shared[kThreads / kWarp];
  const uint32_t bits = __reduce_max_sync(kAllLanes, __float_as_uint(own));
  if (threadIdx.x % kWarp == 0) shared[threadIdx.x / kWarp] = bits;
  __syncthreads();
  if (threadIdx.x != 0) return;
  uint32_t most = 0;
  for (int w = 0; w < kThreads / kWarp; ++w) most = most > shared[w] ? most : shared[w];
  atomicMax(reinterpret_cast<uint32_t*>(highest), most);
}

inline int64_t divide_up(int64_t a, int64_t b) {
  return (a + b - 1) / b;
}

inline bool aligned(const void* p, int64_t bytes = 16) {
  return reinterpret_cast<uintptr_t>(p) % bytes == 0;  // null is
}

// Calls f.template operator()<T, W>(): eight elements at a time where the rows allow it.
template <typename F>
void dispatch(Type type, bool by_eight, F&& f) {
  if (type == Type::bf16)
    by_eight ? f.template operator()<bf16, 8>() : f.template operator()<bf16, 1>();
  else
    by_eight ? f.template operator()<float, 8>() : f.template operator()<float, 1>();
}

}  // namespace
}  // namespace train_sft::ops::cuda
