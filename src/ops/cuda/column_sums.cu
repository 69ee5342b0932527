// Column sums in two stages, each in a fixed order: biases' gradients, and what norms leave over.
#include "ops/cuda/vector.cuh"

namespace train_sft::ops::cuda {
namespace {

constexpr int kLanes = 32, kGroups = 8;  // columns (times W) and rows of a block
constexpr int64_t kMostParts = 256;

// sums [columns] of rows blockIdx.y · kGroups + group, stepping by the grid: into partial
// [gridDim.y, columns].
template <typename T, int W>
__global__ void __launch_bounds__(kLanes* kGroups)
    column_parts_kernel(float* partial, const T* x, int64_t rows, int64_t columns) {
  __shared__ float shared[kGroups][kLanes * W];
  const int lane = threadIdx.x % kLanes, group = threadIdx.x / kLanes;
  const int64_t column = (static_cast<int64_t>(blockIdx.x) * kLanes + lane) * W;
  const int64_t step = static_cast<int64_t>(gridDim.y) * kGroups;
  float sum[W] = {};
  if (column < columns) {
    int64_t row = static_cast<int64_t>(blockIdx.y) * kGroups + group;
    for (; row + 3 * step < rows; row += 4 * step) {  // four loads in flight
      Packed<T, W> four[4];
#pragma unroll
      for (int i = 0; i < 4; ++i) four[i].load(x + (row + i * step) * columns + column);
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        float values[W];
        four[i].to(values);
#pragma unroll
        for (int e = 0; e < W; ++e) sum[e] += values[e];
      }
    }
    for (; row < rows; row += step) {
      float values[W];
      load<T, W>(values, x + row * columns + column);
#pragma unroll
      for (int e = 0; e < W; ++e) sum[e] += values[e];
    }
  }
#pragma unroll
  for (int e = 0; e < W; ++e) shared[group][e * kLanes + lane] = sum[e];
  __syncthreads();
  if (group != 0 || column >= columns) return;
#pragma unroll
  for (int e = 0; e < W; ++e) {
    float total = 0;
    for (int g = 0; g < kGroups; ++g) total += shared[g][e * kLanes + lane];
    partial[blockIdx.y * columns + column + e] = total;
  }
}

__global__ void __launch_bounds__(kLanes* kGroups)
    add_partials_kernel(float* sums, const float* partial, int64_t parts, int64_t columns) {
  __shared__ float shared[kGroups][kLanes];
  const int lane = threadIdx.x % kLanes, group = threadIdx.x / kLanes;
  const int64_t column = static_cast<int64_t>(blockIdx.x) * kLanes + lane;
  float sum = 0;
  if (column < columns) {
#pragma unroll 8
    for (int64_t p = group; p < parts; p += kGroups) sum += partial[p * columns + column];
  }
  shared[group][lane] = sum;
  __syncthreads();
  if (group != 0 || column >= columns) return;
  float total = 0;
  for (int g = 0; g < kGroups; ++g) total += shared[g][lane];
  sums[column] += total;
}

}  // namespace

void add_partials(float* sums, const float* partial, int64_t parts, int64_t columns,
                  cudaStream_t stream) {
  const auto blocks = static_cast<uint32_t>(divide_up(columns, kLanes));
  add_partials_kernel<<<blocks, kLanes * kGroups, 0, stream>>>(sums, partial, parts, columns);
}

void add_column_sums(Type type, float* sums, const void* x, int64_t rows, int64_t columns,
                     Workspace workspace, cudaStream_t stream) {
  if (rows == 0) return;
  auto* partial = static_cast<float*>(workspace.data);
  int64_t parts = divide_up(rows, kGroups * 8);
  if (parts > kMostParts) parts = kMostParts;
  const int64_t room = workspace.bytes / (columns * static_cast<int64_t>(sizeof(float)));
  if (parts > room) parts = room;
  dispatch(type, columns % 8 == 0 && aligned(x), [&]<typename T, int W>() {
    const dim3 grid(static_cast<uint32_t>(divide_up(columns, kLanes * W)),
                    static_cast<uint32_t>(parts));
    column_parts_kernel<T, W>
        <<<grid, kLanes * kGroups, 0, stream>>>(partial, static_cast<const T*>(x), rows, columns);
  });
  add_partials(sums, partial, parts, columns, stream);
}

}  // namespace train_sft::ops::cuda
