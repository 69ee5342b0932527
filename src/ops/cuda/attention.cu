// Attention without tensor cores, for float and for heads that flash attention does not take: a
// warp a row, online softmax. For parity with the CPU, not for speed. And what stands around flash
// attention: joining the three gradients it returns.
#include "ops/cuda/vector.cuh"

namespace train_sft::ops::cuda {
namespace {

constexpr int kThreads = 256, kWarps = kThreads / kWarp;
constexpr int kChannels = static_cast<int>(kLargestHead) / kWarp;  // of a head a lane holds

template <typename T>
struct Heads {
  PlainAttention a;
  int lane;

  __device__ int64_t width() const { return (a.heads + 2 * a.kv_heads) * a.head_dim; }
  __device__ float scale() const { return 1.0f / sqrtf(static_cast<float>(a.head_dim)); }
  __device__ int64_t q(int64_t row, int64_t h) const { return row * width() + h * a.head_dim; }
  __device__ int64_t k(int64_t row, int64_t g) const {
    return row * width() + (a.heads + g) * a.head_dim;
  }
  __device__ int64_t v(int64_t row, int64_t g) const {
    return row * width() + (a.heads + a.kv_heads + g) * a.head_dim;
  }
  __device__ int64_t out(int64_t row, int64_t h) const { return (row * a.heads + h) * a.head_dim; }

  __device__ void read(float (&x)[kChannels], const void* base, int64_t offset) const {
#pragma unroll
    for (int c = 0; c < kChannels; ++c) {
      const int d = lane + c * kWarp;
      x[c] = d < a.head_dim ? static_cast<float>(static_cast<const T*>(base)[offset + d]) : 0.0f;
    }
  }
  __device__ void write(void* base, int64_t offset, const float (&x)[kChannels]) const {
#pragma unroll
    for (int c = 0; c < kChannels; ++c) {
      const int d = lane + c * kWarp;
      if (d < a.head_dim) static_cast<T*>(base)[offset + d] = static_cast<T>(x[c]);
    }
  }
  static __device__ float dot(const float (&x)[kChannels], const float (&y)[kChannels]) {
    float sum = 0;
#pragma unroll
    for (int c = 0; c < kChannels; ++c) sum += x[c] * y[c];
    return lanes_sum(sum);
  }

  struct Limits {
    int64_t begin, end;
  };
  // The document of a row: the last one that begins at or before it and is not empty.
  __device__ Limits document(int64_t row) const {
    int64_t low = 0, high = a.documents;
    while (high - low > 1) {
      const int64_t middle = (low + high) / 2;
      if (a.cu_seqlens[middle] <= row)
        low = middle;
      else
        high = middle;
    }
    return {a.cu_seqlens[low], a.cu_seqlens[low + 1]};
  }
};

__device__ int64_t warp_number() {
  return static_cast<int64_t>(blockIdx.x) * kWarps + threadIdx.x / kWarp;
}

template <typename T>
__global__ void __launch_bounds__(kThreads) attention_forward_kernel(PlainAttention a) {
  const int64_t item = warp_number();
  if (item >= a.rows * a.heads) return;
  const int64_t row = item / a.heads, h = item % a.heads, g = h / (a.heads / a.kv_heads);
  const Heads<T> heads{a, static_cast<int>(threadIdx.x % kWarp)};
  float q[kChannels], sums[kChannels] = {};
  heads.read(q, a.qkv, heads.q(row, h));
  float maximum = -3.402823466e38f, sum = 0;
  for (int64_t j = heads.document(row).begin; j <= row; ++j) {
    float k[kChannels], v[kChannels];
    heads.read(k, a.qkv, heads.k(j, g));
    heads.read(v, a.qkv, heads.v(j, g));
    const float score = heads.dot(q, k) * heads.scale();
    const float highest = fmaxf(maximum, score);
    const float before = expf(maximum - highest), p = expf(score - highest);
    sum = sum * before + p;
#pragma unroll
    for (int c = 0; c < kChannels; ++c) sums[c] = sums[c] * before + p * v[c];
    maximum = highest;
  }
#pragma unroll
  for (int c = 0; c < kChannels; ++c) sums[c] /= sum;
  heads.write(a.out, heads.out(row, h), sums);
  if (heads.lane == 0) a.lse[h * a.rows + row] = maximum + logf(sum);
}

// The gradient of a row's query, and grad_out · out of the row, which the keys' kernel needs.
template <typename T>
__global__ void __launch_bounds__(kThreads) query_gradient_kernel(PlainAttention a, float* deltas) {
  const int64_t item = warp_number();
  if (item >= a.rows * a.heads) return;
  const int64_t row = item / a.heads, h = item % a.heads, g = h / (a.heads / a.kv_heads);
  const Heads<T> heads{a, static_cast<int>(threadIdx.x % kWarp)};
  float q[kChannels], grad[kChannels], out[kChannels], dq[kChannels] = {};
  heads.read(q, a.qkv, heads.q(row, h));
  heads.read(grad, a.grad_out, heads.out(row, h));
  heads.read(out, a.out, heads.out(row, h));
  const float delta = heads.dot(grad, out), lse = a.lse[h * a.rows + row];
  for (int64_t j = heads.document(row).begin; j <= row; ++j) {
    float k[kChannels], v[kChannels];
    heads.read(k, a.qkv, heads.k(j, g));
    heads.read(v, a.qkv, heads.v(j, g));
    const float p = expf(heads.dot(q, k) * heads.scale() - lse);
    const float ds = p * (heads.dot(grad, v) - delta) * heads.scale();
#pragma unroll
    for (int c = 0; c < kChannels; ++c) dq[c] += ds * k[c];
  }
  heads.write(a.grad_qkv, heads.q(row, h), dq);
  if (heads.lane == 0) deltas[h * a.rows + row] = delta;
}

template <typename T>
__global__ void __launch_bounds__(kThreads)
    key_gradient_kernel(PlainAttention a, const float* deltas) {
  const int64_t item = warp_number();
  if (item >= a.rows * a.kv_heads) return;
  const int64_t row = item / a.kv_heads, g = item % a.kv_heads, group = a.heads / a.kv_heads;
  const Heads<T> heads{a, static_cast<int>(threadIdx.x % kWarp)};
  float k[kChannels], v[kChannels], dk[kChannels] = {}, dv[kChannels] = {};
  heads.read(k, a.qkv, heads.k(row, g));
  heads.read(v, a.qkv, heads.v(row, g));
  const int64_t end = heads.document(row).end;
  for (int64_t h = g * group; h < (g + 1) * group; ++h) {
    for (int64_t i = row; i < end; ++i) {
      float q[kChannels], grad[kChannels];
      heads.read(q, a.qkv, heads.q(i, h));
      heads.read(grad, a.grad_out, heads.out(i, h));
      const float p = expf(heads.dot(q, k) * heads.scale() - a.lse[h * a.rows + i]);
      const float ds = p * (heads.dot(grad, v) - deltas[h * a.rows + i]) * heads.scale();
#pragma unroll
      for (int c = 0; c < kChannels; ++c) {
        dv[c] += p * grad[c];
        dk[c] += ds * q[c];
      }
    }
  }
  heads.write(a.grad_qkv, heads.k(row, g), dk);
  heads.write(a.grad_qkv, heads.v(row, g), dv);
}

template <typename T, int W>
__global__ void __launch_bounds__(kThreads)
    join_heads_kernel(T* out, const T* dq, const T* dk, const T* dv, uint32_t rows,
                      uint32_t q_width, uint32_t kv_width) {
  const uint32_t width = q_width + 2 * kv_width, vectors = width / W;
  const uint32_t i = blockIdx.x * kThreads + threadIdx.x;
  const uint32_t row = i / vectors, c = i % vectors * W;
  if (row >= rows) return;
  const int64_t kv = static_cast<int64_t>(row) * kv_width;
  const T* from = c < q_width              ? dq + static_cast<int64_t>(row) * q_width + c
                  : c < q_width + kv_width ? dk + kv + (c - q_width)
                                           : dv + kv + (c - q_width - kv_width);
  Packed<T, W> x;
  x.load(from);
  x.store(out + static_cast<int64_t>(row) * width + c);
}

uint32_t blocks_of_warps(int64_t warps) {
  return static_cast<uint32_t>(divide_up(warps, kWarps));
}

}  // namespace

void attention_forward(Type type, const PlainAttention& a, cudaStream_t stream) {
  if (a.rows == 0) return;
  const uint32_t blocks = blocks_of_warps(a.rows * a.heads);
  type == Type::bf16 ? attention_forward_kernel<bf16><<<blocks, kThreads, 0, stream>>>(a)
                     : attention_forward_kernel<float><<<blocks, kThreads, 0, stream>>>(a);
}

int64_t attention_workspace(const PlainAttention& a) {
  return a.rows * a.heads * static_cast<int64_t>(sizeof(float));
}

void attention_backward(Type type, const PlainAttention& a, Workspace workspace,
                        cudaStream_t stream) {
  if (a.rows == 0) return;
  auto* deltas = static_cast<float*>(workspace.data);
  const uint32_t queries = blocks_of_warps(a.rows * a.heads);
  const uint32_t keys = blocks_of_warps(a.rows * a.kv_heads);
  if (type == Type::bf16) {
    query_gradient_kernel<bf16><<<queries, kThreads, 0, stream>>>(a, deltas);
    key_gradient_kernel<bf16><<<keys, kThreads, 0, stream>>>(a, deltas);
  } else {
    query_gradient_kernel<float><<<queries, kThreads, 0, stream>>>(a, deltas);
    key_gradient_kernel<float><<<keys, kThreads, 0, stream>>>(a, deltas);
  }
}

void join_heads(Type type, void* grad_qkv, const void* dq, const void* dk, const void* dv,
                int64_t rows, int64_t q_width, int64_t kv_width, cudaStream_t stream) {
  if (rows == 0) return;
  const bool by_eight = q_width % 8 == 0 && kv_width % 8 == 0 && aligned(grad_qkv) && aligned(dq) &&
                        aligned(dk) && aligned(dv);
  dispatch(type, by_eight, [&]<typename T, int W>() {
    const int64_t vectors = rows * ((q_width + 2 * kv_width) / W);
    const auto blocks = static_cast<uint32_t>(divide_up(vectors, kThreads));
    join_heads_kernel<T, W><<<blocks, kThreads, 0, stream>>>(
        static_cast<T*>(grad_qkv), static_cast<const T*>(dq), static_cast<const T*>(dk),
        static_cast<const T*>(dv), static_cast<uint32_t>(rows), static_cast<uint32_t>(q_width),
        static_cast<uint32_t>(kv_width));
  });
}

}  // namespace train_sft::ops::cuda
