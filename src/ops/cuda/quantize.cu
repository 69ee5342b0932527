// To 8 bits: value × scale, rounded to nearest even and saturating, as torch's casts of a clamped
// value; as it lies, transposed, or both in one read.
#include <cuda_fp8.h>

#include "ops/cuda/elements.h"
#include "ops/cuda/vector.cuh"

namespace train_sft::ops::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kTile = 64;  // rows and columns of a transposing block

template <Fp8 kFormat>
__device__ uint32_t two_bytes(float low, float high) {
  constexpr auto interpretation = kFormat == Fp8::e4m3 ? __NV_E4M3 : __NV_E5M2;
  return __nv_cvt_float2_to_fp8x2(make_float2(low, high), __NV_SATFINITE, interpretation);
}

template <Fp8 kFormat>
__device__ uint2 eight_bytes(const float (&x)[8], float scale) {
  const auto two = [&](int e) { return two_bytes<kFormat>(x[e] * scale, x[e + 1] * scale); };
  return make_uint2(two(0) | two(2) << 16, two(4) | two(6) << 16);
}

template <typename T, Fp8 kFormat>
__global__ void __launch_bounds__(kThreads) quantize_kernel(Quantize q) {
  const int64_t i = (static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x) * 8;
  float highest = 0;
  if (i < q.rows * q.columns) {
    float x[8];
    load<T, 8>(x, static_cast<const T*>(q.input) + i);
#pragma unroll
    for (int e = 0; e < 8; ++e) highest = magnitude(highest, x[e]);
    *reinterpret_cast<uint2*>(q.values + i) = eight_bytes<kFormat>(x, *q.scale);
  }
  if (q.amax != nullptr) raise<kThreads>(q.amax, highest);
}

// rows and columns are multiples of 16; tiles at the edges are cut.
template <typename T, Fp8 kFormat>
__global__ void __launch_bounds__(kThreads) quantize_transposing_kernel(Quantize q) {
  // [column][row]; rows of 17 words, so that few of a warp's stores share a bank.
  __shared__ __align__(4) uint8_t tile[kTile][kTile + 4];
  const int64_t first_row = static_cast<int64_t>(blockIdx.y) * kTile;
  const int64_t first_column = static_cast<int64_t>(blockIdx.x) * kTile;
  const int column = threadIdx.x % 8 * 8;
  const float scale = *q.scale;
  float highest = 0;
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const int row = static_cast<int>(threadIdx.x) / 8 + half * kTile / 2;
    if (first_row + row >= q.rows || first_column + column >= q.columns) continue;
    const int64_t place = (first_row + row) * q.columns + first_column + column;
    float x[8];
    load<T, 8>(x, static_cast<const T*>(q.input) + place);
#pragma unroll
    for (int e = 0; e < 8; ++e) highest = magnitude(highest, x[e]);
    const uint2 bytes = eight_bytes<kFormat>(x, scale);
    if (q.values != nullptr) *reinterpret_cast<uint2*>(q.values + place) = bytes;
#pragma unroll
    for (int e = 0; e < 8; ++e)
      tile[column + e][row] = static_cast<uint8_t>((e < 4 ? bytes.x : bytes.y) >> (e % 4 * 8));
  }
  __syncthreads();
  const int own_column = static_cast<int>(threadIdx.x) / 4, own_row = threadIdx.x % 4 * 16;
  if (first_column + own_column < q.columns && first_row + own_row < q.rows) {
    uint8_t* to = q.transposed + (first_column + own_column) * q.rows + first_row + own_row;
    const auto* from = reinterpret_cast<const uint32_t*>(&tile[own_column][own_row]);
    *reinterpret_cast<uint4*>(to) = make_uint4(from[0], from[1], from[2], from[3]);
  }
  if (q.amax != nullptr) raise<kThreads>(q.amax, highest);
}

template <typename T, int W>
__global__ void __launch_bounds__(kThreads)
    amax_kernel(float* amax, const T* input, int64_t count) {
  const int64_t step = static_cast<int64_t>(gridDim.x) * kThreads * W;
  float highest = 0;
#pragma unroll 4
  for (int64_t i = (static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x) * W; i < count;
       i += step) {
    float x[W];
    load<T, W>(x, input + i);
#pragma unroll
    for (int e = 0; e < W; ++e) highest = magnitude(highest, x[e]);
  }
  raise<kThreads>(amax, highest);
}

__global__ void __launch_bounds__(kThreads)
    update_scales_kernel(float* history, float* amax, float* scale, float* scale_inverse,
                         const float* largest, int64_t tensors, int64_t steps, double margin) {
  const int64_t s = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (s >= tensors) return;
  float* own = history + s * steps;
  const float now = amax[s];
  float highest = now - now == 0 ? now : 0;  // what is not finite says nothing
  const float newest = highest;
  for (int64_t h = 0; h + 1 < steps; ++h) {
    own[h] = own[h + 1];
    highest = magnitude(highest, own[h]);
  }
  own[steps - 1] = newest;
  amax[s] = 0;
  scale[s] = next_scale(scale[s], highest, largest[s], margin);
  scale_inverse[s] = 1.0f / scale[s];
}

template <typename T, Fp8 kFormat>
void launch(const Quantize& q, cudaStream_t stream) {
  if (q.transposed == nullptr) {
    const auto blocks = static_cast<uint32_t>(divide_up(q.rows * q.columns, kThreads * 8));
    quantize_kernel<T, kFormat><<<blocks, kThreads, 0, stream>>>(q);
    return;
  }
  const dim3 grid(static_cast<uint32_t>(divide_up(q.columns, kTile)),
                  static_cast<uint32_t>(divide_up(q.rows, kTile)));
  quantize_transposing_kernel<T, kFormat><<<grid, kThreads, 0, stream>>>(q);
}

}  // namespace

void quantize(Type type, Fp8 format, const Quantize& q, cudaStream_t stream) {
  if (q.rows == 0) return;
  if (type == Type::bf16)
    format == Fp8::e4m3 ? launch<bf16, Fp8::e4m3>(q, stream) : launch<bf16, Fp8::e5m2>(q, stream);
  else
    format == Fp8::e4m3 ? launch<float, Fp8::e4m3>(q, stream) : launch<float, Fp8::e5m2>(q, stream);
}

void amax(Type type, float* amax, const void* input, int64_t count, cudaStream_t stream) {
  if (count == 0) return;
  dispatch(type, count % 8 == 0 && aligned(input), [&]<typename T, int W>() {
    int64_t blocks = divide_up(count / W, kThreads * 4);
    if (blocks > 1024) blocks = 1024;
    amax_kernel<T, W><<<static_cast<uint32_t>(blocks), kThreads, 0, stream>>>(
        amax, static_cast<const T*>(input), count);
  });
}

void update_scales(float* history, float* amax, float* scale, float* scale_inverse,
                   const float* largest, int64_t tensors, int64_t steps, double margin,
                   cudaStream_t stream) {
  if (tensors == 0) return;
  const auto blocks = static_cast<uint32_t>(divide_up(tensors, kThreads));
  update_scales_kernel<<<blocks, kThreads, 0, stream>>>(history, amax, scale, scale_inverse,
                                                        largest, tensors, steps, margin);
}

}  // namespace train_sft::ops::cuda
