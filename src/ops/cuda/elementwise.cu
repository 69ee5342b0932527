// Activations, dropout and RoPE: one read and one write of each element.
#include "ops/cuda/elements.h"
#include "ops/cuda/vector.cuh"
#include "ops/dropout_hash.h"

namespace train_sft::ops::cuda {
namespace {

constexpr int kThreads = 256;

template <typename T>
constexpr Accuracy kAccuracyOf = sizeof(T) == 2 ? Accuracy::fast : Accuracy::full;

uint32_t blocks_of(int64_t work) {
  return static_cast<uint32_t>(divide_up(work, kThreads));
}

// A vector's number fits 32 bits (an element's need not), whose division is much cheaper.
__device__ uint32_t thread_number() {
  return blockIdx.x * kThreads + threadIdx.x;
}

template <typename T, int W>
__global__ void __launch_bounds__(kThreads)
    gelu_forward_kernel(T* out, const T* input, int64_t count) {
  const int64_t i = static_cast<int64_t>(thread_number()) * W;
  if (i >= count) return;
  float x[W];
  load<T, W>(x, input + i);
#pragma unroll
  for (int e = 0; e < W; ++e) x[e] = gelu<kAccuracyOf<T>>(x[e]);
  store<T, W>(out + i, x);
}

template <typename T, int W>
__global__ void __launch_bounds__(kThreads)
    gelu_backward_kernel(T* grad_input, const T* grad_out, const T* input, int64_t count) {
  const int64_t i = static_cast<int64_t>(thread_number()) * W;
  if (i >= count) return;
  float x[W], grad[W];
  load<T, W>(x, input + i);
  load<T, W>(grad, grad_out + i);
#pragma unroll
  for (int e = 0; e < W; ++e) grad[e] *= gelu_slope<kAccuracyOf<T>>(x[e]);
  store<T, W>(grad_input + i, grad);
}

template <typename T, int W>
__global__ void __launch_bounds__(kThreads)
    swiglu_forward_kernel(T* out, const T* gate_up, int64_t rows, int64_t columns) {
  const uint32_t i = thread_number(), vectors = static_cast<uint32_t>(columns / W);
  const int64_t row = i / vectors, c = i % vectors * W;
  if (row >= rows) return;
  float gate[W], up[W];
  load<T, W>(gate, gate_up + row * 2 * columns + c);
  load<T, W>(up, gate_up + row * 2 * columns + columns + c);
#pragma unroll
  for (int e = 0; e < W; ++e) gate[e] = swiglu<kAccuracyOf<T>>(gate[e], up[e]);
  store<T, W>(out + row * columns + c, gate);
}

// grad_gate_up may be gate_up: a thread reads what it writes before.
template <typename T, int W>
__global__ void __launch_bounds__(kThreads)
    swiglu_backward_kernel(T* grad_gate_up, const T* grad_out, const T* gate_up, int64_t rows,
                           int64_t columns) {
  const uint32_t i = thread_number(), vectors = static_cast<uint32_t>(columns / W);
  const int64_t row = i / vectors, c = i % vectors * W;
  if (row >= rows) return;
  const int64_t gates = row * 2 * columns + c;
  float gate[W], up[W], grad[W];
  load<T, W>(gate, gate_up + gates);
  load<T, W>(up, gate_up + gates + columns);
  load<T, W>(grad, grad_out + row * columns + c);
#pragma unroll
  for (int e = 0; e < W; ++e) {
    const SwigluSlopes s = swiglu_slopes<kAccuracyOf<T>>(grad[e], gate[e], up[e]);
    gate[e] = s.gate;
    up[e] = s.up;
  }
  store<T, W>(grad_gate_up + gates, gate);
  store<T, W>(grad_gate_up + gates + columns, up);
}

template <typename T, int W>
__global__ void __launch_bounds__(kThreads)
    dropout_kernel(T* out, const T* input, const uint64_t* row_keys, uint32_t site,
                   uint32_t threshold, float scale, int64_t rows, int64_t columns) {
  const uint32_t i = thread_number(), vectors = static_cast<uint32_t>(columns / W);
  const int64_t row = i / vectors, c = i % vectors * W;
  if (row >= rows) return;
  const DropoutSiteKey key = dropout_site_key(row_keys[row], site);
  float x[W];
  load<T, W>(x, input + row * columns + c);
#pragma unroll
  for (int e = 0; e < W; ++e) {
    const bool keep = dropout_bits(key, static_cast<uint32_t>(c + e)) >= threshold;
    x[e] = keep ? x[e] * scale : 0.0f;
  }
  store<T, W>(out + row * columns + c, x);
}

// A thread turns W channels of the first half of a head with W of the second.
template <typename T, int W>
__global__ void __launch_bounds__(kThreads) rope_kernel(Rope r) {
  const int64_t half = r.head_dim / 2;
  const uint32_t i = thread_number(), vectors = static_cast<uint32_t>(half / W);
  const uint32_t head = i / vectors, heads = static_cast<uint32_t>(r.heads), c = i % vectors * W;
  const int64_t row = head / heads;
  if (row >= r.rows) return;
  T* first = static_cast<T*>(r.qkv) + row * r.width + head % heads * r.head_dim + c;
  const int64_t angle = static_cast<int64_t>(r.positions[row]) * half + c;
  float a[W], b[W], cosine[W], sine[W];
  load<T, W>(a, first);
  load<T, W>(b, first + half);
  load<float, W>(cosine, r.cosines + angle);
  load<float, W>(sine, r.sines + angle);
#pragma unroll
  for (int e = 0; e < W; ++e) {
    const float s = r.backward ? -sine[e] : sine[e];
    const float x = a[e], y = b[e];
    a[e] = x * cosine[e] - y * s;
    b[e] = y * cosine[e] + x * s;
  }
  store<T, W>(first, a);
  store<T, W>(first + half, b);
}

}  // namespace

void gelu_forward(Type type, void* out, const void* input, int64_t count, cudaStream_t stream) {
  if (count == 0) return;
  const bool by_eight = count % 8 == 0 && aligned(out) && aligned(input);
  dispatch(type, by_eight, [&]<typename T, int W>() {
    gelu_forward_kernel<T, W><<<blocks_of(count / W), kThreads, 0, stream>>>(
        static_cast<T*>(out), static_cast<const T*>(input), count);
  });
}

void gelu_backward(Type type, void* grad_input, const void* grad_out, const void* input,
                   int64_t count, cudaStream_t stream) {
  if (count == 0) return;
  const bool by_eight =
      count % 8 == 0 && aligned(grad_input) && aligned(grad_out) && aligned(input);
  dispatch(type, by_eight, [&]<typename T, int W>() {
    gelu_backward_kernel<T, W><<<blocks_of(count / W), kThreads, 0, stream>>>(
        static_cast<T*>(grad_input), static_cast<const T*>(grad_out), static_cast<const T*>(input),
        count);
  });
}

void swiglu_forward(Type type, void* out, const void* gate_up, int64_t rows, int64_t columns,
                    cudaStream_t stream) {
  if (rows == 0) return;
  const bool by_eight = columns % 8 == 0 && aligned(out) && aligned(gate_up);
  dispatch(type, by_eight, [&]<typename T, int W>() {
    swiglu_forward_kernel<T, W><<<blocks_of(rows * (columns / W)), kThreads, 0, stream>>>(
        static_cast<T*>(out), static_cast<const T*>(gate_up), rows, columns);
  });
}

void swiglu_backward(Type type, void* grad_gate_up, const void* grad_out, const void* gate_up,
                     int64_t rows, int64_t columns, cudaStream_t stream) {
  if (rows == 0) return;
  const bool by_eight =
      columns % 8 == 0 && aligned(grad_gate_up) && aligned(grad_out) && aligned(gate_up);
  dispatch(type, by_eight, [&]<typename T, int W>() {
    swiglu_backward_kernel<T, W><<<blocks_of(rows * (columns / W)), kThreads, 0, stream>>>(
        static_cast<T*>(grad_gate_up), static_cast<const T*>(grad_out),
        static_cast<const T*>(gate_up), rows, columns);
  });
}

void dropout(Type type, void* out, const void* input, const uint64_t* row_keys, uint32_t site,
             double p, int64_t rows, int64_t columns, cudaStream_t stream) {
  if (rows == 0) return;
  const bool by_eight = columns % 8 == 0 && aligned(out) && aligned(input);
  dispatch(type, by_eight, [&]<typename T, int W>() {
    dropout_kernel<T, W><<<blocks_of(rows * (columns / W)), kThreads, 0, stream>>>(
        static_cast<T*>(out), static_cast<const T*>(input), row_keys, site, dropout_threshold(p),
        static_cast<float>(1 / (1 - p)), rows, columns);
  });
}

void rope(Type type, const Rope& rope, cudaStream_t stream) {
  if (rope.rows == 0) return;
  const int64_t half = rope.head_dim / 2;
  const bool by_eight = half % 8 == 0 && rope.width % 8 == 0 && aligned(rope.qkv) &&
                        aligned(rope.cosines) && aligned(rope.sines);
  dispatch(type, by_eight, [&]<typename T, int W>() {
    const uint32_t blocks = blocks_of(rope.rows * rope.heads * (half / W));
    rope_kernel<T, W><<<blocks, kThreads, 0, stream>>>(rope);
  });
}

}  // namespace train_sft::ops::cuda
