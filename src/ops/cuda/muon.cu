// Muon's passes over a matrix, before and after the products that make it orthogonal. Each is a
// read of what it needs and a write: bound by memory.
#include "ops/cuda/vector.cuh"

namespace train_sft::ops::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int64_t kSumBlocks = 1024;

__device__ int64_t thread_number() {
  return static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
}

// Where in the parameter the i-th element of the matrix stands.
__device__ int64_t place_of(const MuonMatrix& m, int64_t i) {
  // A division of 32 bits costs a fifth of one of 64.
  const int64_t row = i <= UINT32_MAX && m.columns <= UINT32_MAX
                          ? static_cast<uint32_t>(i) / static_cast<uint32_t>(m.columns)
                          : i / m.columns;
  return row * m.stride + m.first_column + (i - row * m.columns);
}

// What is to be orthogonal, after Nesterov.
__device__ float direction(float grad, float momentum, float mu) {
  return grad + mu * (momentum - grad);
}

template <int W>
__global__ void __launch_bounds__(kThreads) muon_momentum_kernel(double* partial, MuonMoments a) {
  if (a.update->skip != 0) return;
  const auto mu = static_cast<float>(a.mu);
  const auto grad_scale = static_cast<float>(a.update->grad_scale);
  const int64_t count = a.matrix.rows * a.matrix.columns;
  const int64_t step = static_cast<int64_t>(gridDim.x) * kThreads * W;
  double sum = 0;
  for (int64_t i = thread_number() * W; i < count; i += step) {
    const int64_t at = place_of(a.matrix, i);
    float grad[W], momentum[W];
    load<float, W>(grad, a.grad + at);
    load<float, W>(momentum, a.momentum + at);
#pragma unroll
    for (int e = 0; e < W; ++e) {
      grad[e] *= grad_scale;
      momentum[e] += (1 - mu) * (grad[e] - momentum[e]);
      const auto value = static_cast<double>(direction(grad[e], momentum[e], mu));
      sum += value * value;
    }
    store<float, W>(a.momentum + at, momentum);
  }
  sum = block_sum<kThreads>(sum);
  if (threadIdx.x == 0) partial[blockIdx.x] = sum;
}

__global__ void __launch_bounds__(kThreads)
    muon_squares_kernel(double* squares, const double* partial, int64_t parts,
                        const DeviceUpdate* update) {
  if (update->skip != 0) return;
  double own = 0;
  for (int64_t p = threadIdx.x; p < parts; p += kThreads) own += partial[p];
  own = block_sum<kThreads>(own);
  if (threadIdx.x == 0) *squares = own;
}

template <typename T, int W>
__global__ void __launch_bounds__(kThreads) muon_unit_kernel(T* x, MuonMoments a) {
  __shared__ float unit;
  if (a.update->skip != 0) return;
  if (threadIdx.x == 0) {
    const double norm = sqrt(*a.squares);
    unit = static_cast<float>(1 / (norm < kMuonLeastNorm ? kMuonLeastNorm : norm));
  }
  __syncthreads();
  const int64_t i = thread_number() * W;
  if (i >= a.matrix.rows * a.matrix.columns) return;
  const auto mu = static_cast<float>(a.mu);
  const auto grad_scale = static_cast<float>(a.update->grad_scale);
  const int64_t at = place_of(a.matrix, i);
  float grad[W], momentum[W];
  load<float, W>(grad, a.grad + at);
  load<float, W>(momentum, a.momentum + at);
#pragma unroll
  for (int e = 0; e < W; ++e) grad[e] = direction(grad[e] * grad_scale, momentum[e], mu) * unit;
  store<T, W>(x + i, grad);
}

template <typename T, int W>
__global__ void __launch_bounds__(kThreads) muon_apply_kernel(MuonResult a) {
  if (a.update->skip != 0) return;
  const int64_t i = thread_number() * W;
  if (i >= a.matrix.rows * a.matrix.columns) return;
  const auto keep = static_cast<float>(1 - a.update->lr * a.weight_decay);
  const auto rate = static_cast<float>(a.update->lr * a.size);
  const int64_t at = place_of(a.matrix, i);
  float x[W], master[W];
  load<T, W>(x, static_cast<const T*>(a.x) + i);
  load<float, W>(master, a.master + at);
#pragma unroll
  for (int e = 0; e < W; ++e) master[e] = master[e] * keep - rate * x[e];
  store<float, W>(a.master + at, master);
  if (a.compute != nullptr) store<T, W>(static_cast<T*>(a.compute) + at, master);
}

template <typename T>
__global__ void __launch_bounds__(kThreads)
    scale_shift_kernel(T* out, const T* in, int64_t n, float scale, float shift) {
  const int64_t i = thread_number();
  if (i >= n * n) return;
  // Elements of the diagonal are n + 1 apart.
  const float own = i % (n + 1) == 0 ? shift : 0.0f;
  out[i] = static_cast<T>(scale * static_cast<float>(in[i]) + own);
}

uint32_t blocks_of(int64_t threads) {
  return static_cast<uint32_t>(divide_up(threads, kThreads));
}

bool by_eight(const MuonMatrix& m) {
  return m.columns % 8 == 0 && m.stride % 8 == 0 && m.first_column % 8 == 0;
}

}  // namespace

void muon_momentum(const MuonMoments& moments, Workspace workspace, cudaStream_t stream) {
  const int64_t count = moments.matrix.rows * moments.matrix.columns;
  auto* partial = static_cast<double*>(workspace.data);
  int64_t blocks = divide_up(count, kThreads * 8);  // whatever the alignment
  if (blocks > kSumBlocks) blocks = kSumBlocks;
  const auto grid = static_cast<uint32_t>(blocks);
  if (by_eight(moments.matrix) && aligned(moments.momentum) && aligned(moments.grad))
    muon_momentum_kernel<8><<<grid, kThreads, 0, stream>>>(partial, moments);
  else
    muon_momentum_kernel<1><<<grid, kThreads, 0, stream>>>(partial, moments);
  muon_squares_kernel<<<1, kThreads, 0, stream>>>(moments.squares, partial, blocks, moments.update);
}

void muon_unit(Type type, void* x, const MuonMoments& moments, cudaStream_t stream) {
  const bool vectors =
      by_eight(moments.matrix) && aligned(x) && aligned(moments.momentum) && aligned(moments.grad);
  dispatch(type, vectors, [&]<typename T, int W>() {
    const uint32_t blocks = blocks_of(moments.matrix.rows * moments.matrix.columns / W);
    muon_unit_kernel<T, W><<<blocks, kThreads, 0, stream>>>(static_cast<T*>(x), moments);
  });
}

void muon_apply(Type type, const MuonResult& result, cudaStream_t stream) {
  const bool vectors = by_eight(result.matrix) && aligned(result.x) && aligned(result.master) &&
                       aligned(result.compute);
  dispatch(type, vectors, [&]<typename T, int W>() {
    const uint32_t blocks = blocks_of(result.matrix.rows * result.matrix.columns / W);
    muon_apply_kernel<T, W><<<blocks, kThreads, 0, stream>>>(result);
  });
}

void scale_shift(Type type, void* out, const void* in, int64_t n, float scale, float shift,
                 cudaStream_t stream) {
  if (n == 0) return;
  const uint32_t blocks = blocks_of(n * n);
  if (type == Type::bf16)
    scale_shift_kernel<bf16><<<blocks, kThreads, 0, stream>>>(
        static_cast<bf16*>(out), static_cast<const bf16*>(in), n, scale, shift);
  else
    scale_shift_kernel<float><<<blocks, kThreads, 0, stream>>>(
        static_cast<float*>(out), static_cast<const float*>(in), n, scale, shift);
}

}  // namespace train_sft::ops::cuda
