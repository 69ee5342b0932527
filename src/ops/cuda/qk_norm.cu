// RMSNorm of each head of q and k, in place: 16 lanes a head, which they keep in registers.
#include "ops/cuda/vector.cuh"

namespace train_sft::ops::cuda {
namespace {

constexpr int kThreads = 256, kGroup = 16;
constexpr int kHeadsABlock = kThreads / kGroup;
constexpr int64_t kMostBlocks = 512;

// Vectors of W a lane, for heads of up to kLargestHead channels.
template <int W>
constexpr int kVectors = static_cast<int>(kLargestHead) / (W * kGroup);

template <typename T, int W>
struct Head {
  static constexpr int K = kVectors<W>;
  float x[K][W];
  int lane, head_dim;

  __device__ int channel(int k) const { return (lane + k * kGroup) * W; }
  // Channels beyond the head are zeros.
  __device__ void load(const T* p) {
#pragma unroll
    for (int k = 0; k < K; ++k) {
#pragma unroll
      for (int e = 0; e < W; ++e) x[k][e] = 0;
      if (channel(k) < head_dim) cuda::load<T, W>(x[k], p + channel(k));
    }
  }
  __device__ void store(T* p) const {
#pragma unroll
    for (int k = 0; k < K; ++k)
      if (channel(k) < head_dim) cuda::store<T, W>(p + channel(k), x[k]);
  }
};

template <typename T, int W>
__global__ void __launch_bounds__(kThreads) qk_norm_forward_kernel(QkNorm n) {
  const int64_t per_row = n.heads + n.kv_heads;
  const int64_t item = static_cast<int64_t>(blockIdx.x) * kHeadsABlock + threadIdx.x / kGroup;
  const bool in = item < n.rows * per_row;  // every lane takes part in the sums
  const int64_t row = in ? item / per_row : 0, head = in ? item % per_row : 0;
  T* place = static_cast<T*>(n.qkv) + row * n.width + head * n.head_dim;
  Head<T, W> x, weight;
  x.lane = weight.lane = threadIdx.x % kGroup;
  x.head_dim = weight.head_dim = static_cast<int>(n.head_dim);
  x.load(place);
  weight.load(static_cast<const T*>(head < n.heads ? n.q_weight : n.k_weight));
  float squares = 0;
#pragma unroll
  for (int k = 0; k < x.K; ++k)
#pragma unroll
    for (int e = 0; e < W; ++e) squares += x.x[k][e] * x.x[k][e];
  const float rstd = 1.0f / sqrtf(lanes_sum<kGroup>(squares) / n.head_dim + n.eps);
  if (!in) return;
  if (n.input != nullptr) x.store(static_cast<T*>(n.input) + item * n.head_dim);
  if (n.rstd != nullptr && x.lane == 0) n.rstd[item] = rstd;
#pragma unroll
  for (int k = 0; k < x.K; ++k)
#pragma unroll
    for (int e = 0; e < W; ++e) x.x[k][e] = x.x[k][e] * rstd * weight.x[k][e];
  x.store(place);
}

// blockIdx.y 0: heads of queries, 1: of keys, so that a thread adds to one weight's gradient.
// partial [2, blocks, head_dim].
template <typename T, int W>
__global__ void __launch_bounds__(kThreads) qk_norm_backward_kernel(QkNorm n, float* partial) {
  __shared__ float shared[kHeadsABlock][kLargestHead];
  const bool keys = blockIdx.y == 1;
  const int64_t heads = keys ? n.kv_heads : n.heads, first_head = keys ? n.heads : 0;
  const int group = threadIdx.x / kGroup;
  Head<T, W> weight, sums;
  weight.lane = sums.lane = threadIdx.x % kGroup;
  weight.head_dim = sums.head_dim = static_cast<int>(n.head_dim);
  weight.load(static_cast<const T*>(keys ? n.k_weight : n.q_weight));
#pragma unroll
  for (int k = 0; k < sums.K; ++k)
#pragma unroll
    for (int e = 0; e < W; ++e) sums.x[k][e] = 0;

  const int64_t count = n.rows * heads;
  for (int64_t base = static_cast<int64_t>(blockIdx.x) * kHeadsABlock; base < count;
       base += static_cast<int64_t>(gridDim.x) * kHeadsABlock) {
    const bool in = base + group < count;
    const int64_t item = in ? base + group : 0, row = item / heads;
    const int64_t head = first_head + item % heads;
    const int64_t kept = row * (n.heads + n.kv_heads) + head;
    T* place = static_cast<T*>(n.qkv) + row * n.width + head * n.head_dim;
    Head<T, W> grad, x;
    grad.lane = x.lane = weight.lane;
    grad.head_dim = x.head_dim = weight.head_dim;
    grad.load(place);
    x.load(static_cast<const T*>(n.input) + kept * n.head_dim);
    const float rstd = n.rstd[kept];
    float sum = 0;
#pragma unroll
    for (int k = 0; k < x.K; ++k)
#pragma unroll
      for (int e = 0; e < W; ++e) {
        x.x[k][e] *= rstd;
        sum += grad.x[k][e] * weight.x[k][e] * x.x[k][e];
        if (in) sums.x[k][e] += grad.x[k][e] * x.x[k][e];
      }
    const float average = lanes_sum<kGroup>(sum) / n.head_dim;
#pragma unroll
    for (int k = 0; k < x.K; ++k)
#pragma unroll
      for (int e = 0; e < W; ++e)
        grad.x[k][e] = rstd * (grad.x[k][e] * weight.x[k][e] - x.x[k][e] * average);
    if (in) grad.store(place);
  }
#pragma unroll
  for (int k = 0; k < sums.K; ++k)
#pragma unroll
    for (int e = 0; e < W; ++e)
      if (sums.channel(k) < n.head_dim) shared[group][sums.channel(k) + e] = sums.x[k][e];
  __syncthreads();
  float* own = partial + (blockIdx.y * static_cast<int64_t>(gridDim.x) + blockIdx.x) * n.head_dim;
  for (int d = threadIdx.x; d < n.head_dim; d += kThreads) {
    float total = 0;
    for (int g = 0; g < kHeadsABlock; ++g) total += shared[g][d];
    own[d] = total;
  }
}

bool by_eight(const QkNorm& n) {
  return n.head_dim % 8 == 0 && n.width % 8 == 0 && aligned(n.qkv) && aligned(n.input) &&
         aligned(n.q_weight) && aligned(n.k_weight);
}

}  // namespace

void qk_norm_forward(Type type, const QkNorm& n, cudaStream_t stream) {
  if (n.rows == 0) return;
  const int64_t blocks = divide_up(n.rows * (n.heads + n.kv_heads), kHeadsABlock);
  dispatch(type, by_eight(n), [&]<typename T, int W>() {
    qk_norm_forward_kernel<T, W><<<static_cast<uint32_t>(blocks), kThreads, 0, stream>>>(n);
  });
}

void qk_norm_backward(Type type, const QkNorm& n, Workspace workspace, cudaStream_t stream) {
  if (n.rows == 0) return;
  int64_t blocks = divide_up(n.rows * n.heads, kHeadsABlock);
  if (blocks > kMostBlocks) blocks = kMostBlocks;
  auto* partial = static_cast<float*>(workspace.data);
  dispatch(type, by_eight(n), [&]<typename T, int W>() {
    const dim3 grid(static_cast<uint32_t>(blocks), 2);
    qk_norm_backward_kernel<T, W><<<grid, kThreads, 0, stream>>>(n, partial);
  });
  if (n.grad_q_weight != nullptr)
    add_partials(n.grad_q_weight, partial, blocks, n.head_dim, stream);
  if (n.grad_k_weight != nullptr)
    add_partials(n.grad_k_weight, partial + blocks * n.head_dim, blocks, n.head_dim, stream);
}

}  // namespace train_sft::ops::cuda
