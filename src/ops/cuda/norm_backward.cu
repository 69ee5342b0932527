// The backward of LayerNorm and RMSNorm. A block goes down the rows with each thread owning the
// same columns all the way: it keeps their part of the weight's and bias's gradients in registers.
// A second kernel adds up the blocks' parts in order.
#include "ops/cuda/vector.cuh"

namespace train_sft::ops::cuda {
namespace {

constexpr int kMostThreads = 512;
constexpr int64_t kMostBlocks = 512;

// Two sums for each of R rows, over the block: the same bits in every thread. `round` alternates
// between two buffers, so that one barrier a round is enough.
template <int R>
__device__ void block_sums(float (&a)[R], float (&b)[R], int round) {
  __shared__ float shared[2][2 * R][kMostThreads / kWarp];
  const int warp = threadIdx.x / kWarp, warps = blockDim.x / kWarp;
  float(*buffer)[kMostThreads / kWarp] = shared[round & 1];
#pragma unroll
  for (int r = 0; r < R; ++r) {
    a[r] = lanes_sum(a[r]);
    b[r] = lanes_sum(b[r]);
    if (threadIdx.x % kWarp == 0) {
      buffer[2 * r][warp] = a[r];
      buffer[2 * r + 1][warp] = b[r];
    }
  }
  __syncthreads();
#pragma unroll
  for (int r = 0; r < R; ++r) {
    a[r] = b[r] = 0;
    for (int w = 0; w < warps; ++w) {
      a[r] += buffer[2 * r][w];
      b[r] += buffer[2 * r + 1][w];
    }
  }
}

// K vectors of W a thread, R rows at a time. partial: [blocks, columns] of the weight's gradient,
// then of the bias's. No __restrict__: grad_input may be grad_normed.
template <typename T, int W, int K, int R, bool kLayer>
__global__ void __launch_bounds__(kMostThreads)
    norm_backward_kernel(NormBackward n, float* partial) {
  const int columns = static_cast<int>(n.columns);
  const T* all_dy = static_cast<const T*>(n.grad_normed);
  const T* all_x = static_cast<const T*>(n.input);
  T* all_dx = static_cast<T*>(n.grad_input);
  float sum_w[K][W] = {}, sum_b[K][W] = {};
  const auto column = [&](int k) { return static_cast<int>(threadIdx.x + k * blockDim.x) * W; };

  int round = 0;
  for (int64_t first = static_cast<int64_t>(blockIdx.x) * R; first < n.rows;
       first += static_cast<int64_t>(gridDim.x) * R, ++round) {
    Packed<T, W> dy[R][K], x[R][K], dx[R][K];
    float mean[R], rstd[R], sum_g[R], sum_gx[R];
#pragma unroll
    for (int r = 0; r < R; ++r) {
      const int64_t row = first + r;
      const bool in = row < n.rows;
      mean[r] = kLayer && in ? n.mean[row] : 0.0f;
      rstd[r] = in ? n.rstd[row] : 0.0f;
#pragma unroll
      for (int k = 0; k < K; ++k) {
        if (!in || column(k) >= columns) continue;
        dy[r][k].load(all_dy + row * columns + column(k));
        x[r][k].load(all_x + row * columns + column(k));
        if (n.accumulate) dx[r][k].load(all_dx + row * columns + column(k));
      }
    }
#pragma unroll
    for (int r = 0; r < R; ++r) {
      sum_g[r] = sum_gx[r] = 0;
#pragma unroll
      for (int k = 0; k < K; ++k) {
        if (first + r >= n.rows || column(k) >= columns) continue;
        float g[W], normalised[W], weight[W];
        dy[r][k].to(g);
        x[r][k].to(normalised);
        load<T, W>(weight, static_cast<const T*>(n.weight) + column(k));
#pragma unroll
        for (int e = 0; e < W; ++e) {
          normalised[e] = (normalised[e] - mean[r]) * rstd[r];
          sum_w[k][e] += g[e] * normalised[e];
          if constexpr (kLayer) sum_b[k][e] += g[e];
          sum_g[r] += g[e] * weight[e];
          sum_gx[r] += g[e] * weight[e] * normalised[e];
        }
      }
    }
    block_sums<R>(sum_g, sum_gx, round);
#pragma unroll
    for (int r = 0; r < R; ++r) {
      const int64_t row = first + r;
      const float average_g = kLayer ? sum_g[r] / columns : 0.0f;
      const float average_gx = sum_gx[r] / columns;
#pragma unroll
      for (int k = 0; k < K; ++k) {
        if (row >= n.rows || column(k) >= columns) continue;
        float g[W], out[W], weight[W], before[W];
        dy[r][k].to(g);
        x[r][k].to(out);
        load<T, W>(weight, static_cast<const T*>(n.weight) + column(k));
#pragma unroll
        for (int e = 0; e < W; ++e) {
          const float normalised = (out[e] - mean[r]) * rstd[r];
          out[e] = rstd[r] * (g[e] * weight[e] - average_g - normalised * average_gx);
        }
        if (n.accumulate) {
          dx[r][k].to(before);
#pragma unroll
          for (int e = 0; e < W; ++e) out[e] += before[e];
        }
        store<T, W>(all_dx + row * columns + column(k), out);
      }
    }
  }
  if (partial == nullptr) return;
#pragma unroll
  for (int k = 0; k < K; ++k) {
    if (column(k) >= columns) continue;
    float* own = partial + static_cast<int64_t>(blockIdx.x) * columns + column(k);
    store<float, W>(own, sum_w[k]);
    if constexpr (kLayer)
      store<float, W>(own + static_cast<int64_t>(gridDim.x) * columns, sum_b[k]);
  }
}

template <typename T, int W, int K, int R>
void launch(const NormBackward& n, Workspace workspace, cudaStream_t stream) {
  const bool layer = n.mean != nullptr;
  const bool weights = n.grad_weight != nullptr || n.grad_bias != nullptr;
  const int64_t part = n.columns * static_cast<int64_t>(sizeof(float)) * (layer ? 2 : 1);
  int64_t blocks = divide_up(n.rows, R);
  if (blocks > kMostBlocks) blocks = kMostBlocks;
  if (blocks > workspace.bytes / part) blocks = workspace.bytes / part;
  const int64_t threads = divide_up(divide_up(n.columns, W * K), kWarp) * kWarp;
  float* partial = weights ? static_cast<float*>(workspace.data) : nullptr;
  const auto grid = static_cast<uint32_t>(blocks), block = static_cast<uint32_t>(threads);
  if (layer)
    norm_backward_kernel<T, W, K, R, true><<<grid, block, 0, stream>>>(n, partial);
  else
    norm_backward_kernel<T, W, K, R, false><<<grid, block, 0, stream>>>(n, partial);
  if (n.grad_weight != nullptr) add_partials(n.grad_weight, partial, blocks, n.columns, stream);
  if (n.grad_bias != nullptr)
    add_partials(n.grad_bias, partial + blocks * n.columns, blocks, n.columns, stream);
}

}  // namespace

void norm_backward(Type type, const NormBackward& n, Workspace workspace, cudaStream_t stream) {
  if (n.rows == 0) return;
  const bool by_eight = n.columns % 8 == 0 && aligned(n.grad_input) && aligned(n.grad_normed) &&
                        aligned(n.input) && aligned(n.weight);
  dispatch(type, by_eight, [&]<typename T, int W>() {
    if constexpr (W == 1) {
      launch<T, 1, 8, 1>(n, workspace, stream);
    } else if (n.columns <= kMostThreads * W) {
      launch<T, W, 1, sizeof(T) == 2 ? 4 : 2>(n, workspace, stream);
    } else {
      launch<T, W, 2, sizeof(T) == 2 ? 2 : 1>(n, workspace, stream);
    }
  });
}

}  // namespace train_sft::ops::cuda
