// residual addition + LayerNorm or RMSNorm. A warp normalises a row, which it keeps in registers:
// one read of residual and delta, one write of their sum and of the result.
#include "ops/cuda/vector.cuh"

namespace train_sft::ops::cuda {
namespace {

constexpr int kRowsABlock = 4;

struct Statistics {
  float mean, rstd;
};

// V vectors of W a lane. V = 0: the row is read again for each pass; each lane reads what it wrote
// itself. No __restrict__: residual_out may be residual or delta.
template <typename T, int W, int V, bool kLayer>
struct Row {
  using P = Packed<T, W>;
  static constexpr int kKept = V == 0 ? 1 : V;
  P kept[kKept];
  const T* source;
  int columns, lane;

  __device__ int vectors() const { return columns / W; }

  __device__ void load(const NormForward& n, int64_t row) {
    const int64_t begin = row * columns;
    const T* residual = static_cast<const T*>(n.residual) + begin;
    source = residual;
    if (n.delta == nullptr) {
      if constexpr (V > 0) {
#pragma unroll
        for (int v = 0; v < V; ++v) {
          const int i = lane + v * kWarp;
          if (i < vectors()) kept[v].load(residual + i * W);
        }
      }
      return;
    }
    T* out = static_cast<T*>(n.residual_out) + begin;
    const T* delta = static_cast<const T*>(n.delta) + begin;
    source = out;
    if constexpr (V > 0) {
      P added[V];
#pragma unroll
      for (int v = 0; v < V; ++v) {
        const int i = lane + v * kWarp;
        if (i < vectors()) {
          kept[v].load(residual + i * W);
          added[v].load(delta + i * W);
        }
      }
#pragma unroll
      for (int v = 0; v < V; ++v) {
        const int i = lane + v * kWarp;
        if (i < vectors()) add(kept[v], added[v]).store(out + i * W);
      }
    } else {
      for (int i = lane; i < vectors(); i += kWarp) {
        P x, y;
        x.load(residual + i * W);
        y.load(delta + i * W);
        add(x, y).store(out + i * W);
      }
    }
  }

  // x = x + y, rounded to T: what is normalised is what is stored.
  static __device__ P& add(P& x, const P& y) {
    float a[W], b[W];
    x.to(a);
    y.to(b);
#pragma unroll
    for (int e = 0; e < W; ++e) a[e] += b[e];
    x.from(a);
    return x;
  }

  // f(vector, its number) for each of this lane's.
  template <typename F>
  __device__ void each(F&& f) {
    if constexpr (V > 0) {
#pragma unroll
      for (int v = 0; v < V; ++v) {
        const int i = lane + v * kWarp;
        if (i < vectors()) {
          float x[W];
          kept[v].to(x);
          f(x, i);
        }
      }
    } else {
      for (int i = lane; i < vectors(); i += kWarp) {
        float x[W];
        cuda::load<T, W>(x, source + i * W);
        f(x, i);
      }
    }
  }

  __device__ Statistics statistics(float eps) {
    float mean = 0;
    if constexpr (kLayer) {
      float sum = 0;
      each([&](const float(&x)[W], int) {
#pragma unroll
        for (int e = 0; e < W; ++e) sum += x[e];
      });
      mean = lanes_sum(sum) / columns;
    }
    float squares = 0;
    each([&](const float(&x)[W], int) {
#pragma unroll
      for (int e = 0; e < W; ++e) squares += (x[e] - mean) * (x[e] - mean);
    });
    return {mean, 1.0f / sqrtf(lanes_sum(squares) / columns + eps)};
  }
};

template <typename T, int W, int V, bool kLayer>
__global__ void __launch_bounds__(kRowsABlock* kWarp) norm_forward_kernel(NormForward n) {
  const int64_t row = static_cast<int64_t>(blockIdx.x) * kRowsABlock + threadIdx.x / kWarp;
  if (row >= n.rows) return;
  Row<T, W, V, kLayer> r;
  r.columns = static_cast<int>(n.columns);
  r.lane = threadIdx.x % kWarp;
  r.load(n, row);
  const Statistics s = r.statistics(n.eps);
  T* out = static_cast<T*>(n.normed) + row * n.columns;
  const T* weights = static_cast<const T*>(n.weight);
  r.each([&](const float(&x)[W], int i) {
    float y[W], weight[W];
    load<T, W>(weight, weights + i * W);
#pragma unroll
    for (int e = 0; e < W; ++e) y[e] = (x[e] - s.mean) * s.rstd * weight[e];
    if constexpr (kLayer) {
      float bias[W];
      load<T, W>(bias, static_cast<const T*>(n.bias) + i * W);
#pragma unroll
      for (int e = 0; e < W; ++e) y[e] += bias[e];
    }
    store<T, W>(out + i * W, y);
  });
  if (r.lane != 0) return;
  if constexpr (kLayer) n.mean[row] = s.mean;
  n.rstd[row] = s.rstd;
}

template <typename T, int W, int V>
void launch(const NormForward& n, cudaStream_t stream) {
  const auto blocks = static_cast<uint32_t>(divide_up(n.rows, kRowsABlock));
  if (n.mean != nullptr)
    norm_forward_kernel<T, W, V, true><<<blocks, kRowsABlock * kWarp, 0, stream>>>(n);
  else
    norm_forward_kernel<T, W, V, false><<<blocks, kRowsABlock * kWarp, 0, stream>>>(n);
}

template <typename T>
void launch(const NormForward& n, cudaStream_t stream) {
  const bool by_eight = n.columns % 8 == 0 && aligned(n.normed) && aligned(n.residual_out) &&
                        aligned(n.residual) && aligned(n.delta) && aligned(n.weight) &&
                        aligned(n.bias);
  if (!by_eight) return launch<T, 1, 0>(n, stream);
  const int64_t vectors = divide_up(n.columns / 8, kWarp);
  if (vectors <= 1) return launch<T, 8, 1>(n, stream);
  if (vectors <= 2) return launch<T, 8, 2>(n, stream);
  if constexpr (sizeof(T) == 2) {  // float's would take too many registers
    if (vectors <= 4) return launch<T, 8, 4>(n, stream);
    if (vectors <= 8) return launch<T, 8, 8>(n, stream);
  }
  launch<T, 8, 0>(n, stream);
}

}  // namespace

void norm_forward(Type type, const NormForward& norm, cudaStream_t stream) {
  if (norm.rows == 0) return;
  type == Type::bf16 ? launch<bf16>(norm, stream) : launch<float>(norm, stream);
}

}  // namespace train_sft::ops::cuda
