// The optimizer's step: the norm of the gradient, the scalars of the update, AdamW.
#include "ops/cuda/elements.h"
#include "ops/cuda/vector.cuh"

namespace train_sft::ops::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int64_t kSumBlocks = 1024;

template <int W>
__global__ void __launch_bounds__(kThreads)
    squares_kernel(double* partial, const float* x, int64_t count) {
  const int64_t step = static_cast<int64_t>(gridDim.x) * kThreads * W;
  double sum = 0;
#pragma unroll 2
  for (int64_t i = (static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x) * W; i < count;
       i += step) {
    float values[W];
    load<float, W>(values, x + i);
#pragma unroll
    for (int e = 0; e < W; ++e) {
      const auto value = static_cast<double>(values[e]);
      sum += value * value;
    }
  }
  sum = block_sum<kThreads>(sum);
  if (threadIdx.x == 0) partial[blockIdx.x] = sum;
}

__global__ void __launch_bounds__(kThreads)
    add_squares_kernel(double* sum, const double* partial, int64_t parts) {
  double own = 0;
  for (int64_t p = threadIdx.x; p < parts; p += kThreads) own += partial[p];
  own = block_sum<kThreads>(own);
  if (threadIdx.x == 0) *sum += own;
}

__global__ void prepare_update_kernel(DeviceUpdate* update, DeviceSums* sums,
                                      UpdateSettings settings) {
  ops::prepare_update(*update, *sums, settings);
}

// The largest magnitude of what is written to `compute`, as it is rounded there.
template <typename T, int W>
__device__ __forceinline__ float adamw_elements(const AdamW& a, const AdamWFactors& factors,
                                                int64_t i) {
  float master[W], grad[W], exp_avg[W], exp_avg_sq[W];
  load<float, W>(master, a.master + i);
  load<float, W>(grad, a.grad + i);
  load<float, W>(exp_avg, a.exp_avg + i);
  load<float, W>(exp_avg_sq, a.exp_avg_sq + i);
#pragma unroll
  for (int e = 0; e < W; ++e) {
    const AdamWElement x = adamw_element({master[e], exp_avg[e], exp_avg_sq[e]}, grad[e], factors);
    master[e] = x.master;
    exp_avg[e] = x.exp_avg;
    exp_avg_sq[e] = x.exp_avg_sq;
  }
  store<float, W>(a.master + i, master);
  store<float, W>(a.exp_avg + i, exp_avg);
  store<float, W>(a.exp_avg_sq + i, exp_avg_sq);
  float highest = 0;
  if (a.compute == nullptr) return highest;
  Packed<T, W> rounded;
  rounded.from(master);
  rounded.store(static_cast<T*>(a.compute) + i);
  rounded.to(master);
#pragma unroll
  for (int e = 0; e < W; ++e) highest = magnitude(highest, master[e]);
  return highest;
}

template <typename T, int W>
__global__ void __launch_bounds__(kThreads) adamw_kernel(AdamW a) {
  __shared__ AdamWFactors shared;
  __shared__ bool skip;
  if (threadIdx.x == 0) {
    skip = a.update->skip != 0;
    shared = adamw_factors(*a.update, a.settings, a.weight_decay);
  }
  __syncthreads();
  if (skip) return;
  const int64_t i = (static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x) * W;
  float highest = 0;
  if (i < a.count) highest = adamw_elements<T, W>(a, shared, i);
  if (a.amax != nullptr) raise<kThreads>(a.amax, highest);
}

}  // namespace

void sum_of_squares(double* sum, const float* x, int64_t count, Workspace workspace,
                    cudaStream_t stream) {
  if (count == 0) return;
  auto* partial = static_cast<double*>(workspace.data);
  int64_t blocks = divide_up(count, kThreads * 8);
  if (blocks > kSumBlocks) blocks = kSumBlocks;
  const auto grid = static_cast<uint32_t>(blocks);
  if (count % 8 == 0 && aligned(x))
    squares_kernel<8><<<grid, kThreads, 0, stream>>>(partial, x, count);
  else
    squares_kernel<1><<<grid, kThreads, 0, stream>>>(partial, x, count);
  add_squares_kernel<<<1, kThreads, 0, stream>>>(sum, partial, blocks);
}

void prepare_update(DeviceUpdate* update, DeviceSums* sums, const UpdateSettings& settings,
                    cudaStream_t stream) {
  prepare_update_kernel<<<1, 1, 0, stream>>>(update, sums, settings);
}

void adamw(Type type, const AdamW& step, cudaStream_t stream) {
  const bool whole = aligned(step.master) && aligned(step.compute) && aligned(step.grad) &&
                     aligned(step.exp_avg) && aligned(step.exp_avg_sq);
  const int64_t by_eight = whole ? step.count / 8 * 8 : 0;  // the rest one by one
  AdamW first = step, rest = step;
  first.count = by_eight;
  rest.master += by_eight;
  rest.grad += by_eight;
  rest.exp_avg += by_eight;
  rest.exp_avg_sq += by_eight;
  rest.count -= by_eight;
  if (step.compute != nullptr)
    rest.compute = static_cast<char*>(step.compute) + by_eight * (type == Type::bf16 ? 2 : 4);
  const auto queue = [&](const AdamW& part, bool vectors) {
    if (part.count == 0) return;
    dispatch(type, vectors, [&]<typename T, int W>() {
      const auto blocks = static_cast<uint32_t>(divide_up(part.count / W, kThreads));
      adamw_kernel<T, W><<<blocks, kThreads, 0, stream>>>(part);
    });
  };
  queue(first, true);
  queue(rest, false);
}

}  // namespace train_sft::ops::cuda
