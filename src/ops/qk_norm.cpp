#include "train_sft/ops/qk_norm.h"

#include <cmath>

#include "ops/dispatch.h"
#include "ops/fast.h"
#include "train_sft/base/profile.h"
#include "train_sft/ops/device_table.h"

namespace train_sft::ops {
namespace {

template <typename T>
struct Heads {
  int64_t N, H, Hkv, D, width;
  const T *q_weight, *k_weight;

  int64_t per_row() const { return H + Hkv; }
  const T* weight(int64_t head) const { return head < H ? q_weight : k_weight; }
};

template <typename T>
Heads<T> heads_of(const at::Tensor& qkv, const at::Tensor& q_weight, const at::Tensor& k_weight,
                  const AttentionShape& shape) {
  return {rows_of(qkv),
          shape.n_head,
          shape.n_kv_head,
          shape.head_dim,
          shape.qkv_width(),
          data_of<T>(q_weight, shape.head_dim),
          data_of<T>(k_weight, shape.head_dim)};
}

template <typename T>
void forward(T* qkv, T* input, Accumulate<T>* rstds, double eps, const Heads<T>& heads) {
  using A = Accumulate<T>;
  const int64_t D = heads.D;
  for (int64_t n = 0; n < heads.N; ++n) {
    for (int64_t h = 0; h < heads.per_row(); ++h) {
      T* x = qkv + n * heads.width + h * D;
      const int64_t row = n * heads.per_row() + h;
      A squares = 0;
      for (int64_t d = 0; d < D; ++d) squares += A(x[d]) * A(x[d]);
      const A rstd = A(1) / std::sqrt(squares / D + A(eps));
      if (rstds != nullptr) rstds[row] = rstd;
      for (int64_t d = 0; d < D; ++d) {
        if (input != nullptr) input[row * D + d] = x[d];
        x[d] = A(x[d]) * rstd * A(heads.weight(h)[d]);
      }
    }
  }
}

// As rms_norm's backward, head by head.
template <typename T>
void backward(T* grad_qkv, Accumulate<T>* grad_q_weight, Accumulate<T>* grad_k_weight,
              const T* input, const Accumulate<T>* rstds, const Heads<T>& heads) {
  using A = Accumulate<T>;
  const int64_t D = heads.D;
  for (int64_t n = 0; n < heads.N; ++n) {
    for (int64_t h = 0; h < heads.per_row(); ++h) {
      T* grad = grad_qkv + n * heads.width + h * D;
      const int64_t row = n * heads.per_row() + h;
      const T *x = input + row * D, *weight = heads.weight(h);
      A* grad_weight = h < heads.H ? grad_q_weight : grad_k_weight;
      A sum = 0;
      for (int64_t d = 0; d < D; ++d) {
        const A normalised = A(x[d]) * rstds[row];
        sum += A(grad[d]) * A(weight[d]) * normalised;
        if (grad_weight != nullptr) grad_weight[d] += A(grad[d]) * normalised;
      }
      for (int64_t d = 0; d < D; ++d) {
        const A g = A(grad[d]) * A(weight[d]);
        grad[d] = rstds[row] * (g - A(x[d]) * rstds[row] * (sum / D));
      }
    }
  }
}

}  // namespace

void qk_norm_forward(const at::Tensor& qkv, const at::Tensor& input, const at::Tensor& rstd,
                     const at::Tensor& q_weight, const at::Tensor& k_weight, double eps,
                     const AttentionShape& shape) {
  const profile::Scope scope("norm forward");
  if (const DeviceTable* device = device_table(qkv))
    return device->qk_norm_forward(qkv, input, rstd, q_weight, k_weight, eps, shape);
  for_dtype(qkv.scalar_type(), [&]<typename T>() {
    const Heads<T> heads = heads_of<T>(qkv, q_weight, k_weight, shape);
    T* x = data_of<T>(qkv, heads.N * heads.width);
    T* kept = data_or_null<T>(input, heads.N * heads.per_row() * heads.D);
    Accumulate<T>* rstds = data_or_null<Accumulate<T>>(rstd, heads.N * heads.per_row());
    if constexpr (has_fast<T>) {
      if (const auto* fast = fast_kernels<T>()) {
        return fast->qk_norm_forward({raw(x), raw(kept), rstds, nullptr, nullptr,
                                      raw(heads.q_weight), raw(heads.k_weight), heads.N, heads.H,
                                      heads.Hkv, heads.D, heads.width, static_cast<float>(eps)});
      }
    }
    forward<T>(x, kept, rstds, eps, heads);
  });
}

void qk_norm_backward(const at::Tensor& grad_qkv, const at::Tensor& grad_q_weight,
                      const at::Tensor& grad_k_weight, const at::Tensor& input,
                      const at::Tensor& rstd, const at::Tensor& q_weight,
                      const at::Tensor& k_weight, const AttentionShape& shape) {
  const profile::Scope scope("norm backward");
  if (const DeviceTable* device = device_table(grad_qkv))
    return device->qk_norm_backward(grad_qkv, grad_q_weight, grad_k_weight, input, rstd, q_weight,
                                    k_weight, shape);
  for_dtype(grad_qkv.scalar_type(), [&]<typename T>() {
    using A = Accumulate<T>;
    const Heads<T> heads = heads_of<T>(grad_qkv, q_weight, k_weight, shape);
    T* grad = data_of<T>(grad_qkv, heads.N * heads.width);
    A* dq = data_or_null<A>(grad_q_weight, heads.D);
    A* dk = data_or_null<A>(grad_k_weight, heads.D);
    T* x = data_of<T>(input, heads.N * heads.per_row() * heads.D);
    A* rstds = data_of<A>(rstd, heads.N * heads.per_row());
    if constexpr (has_fast<T>) {
      if (const auto* fast = fast_kernels<T>()) {
        return fast->qk_norm_backward({raw(grad), raw(x), rstds, dq, dk, raw(heads.q_weight),
                                       raw(heads.k_weight), heads.N, heads.H, heads.Hkv, heads.D,
                                       heads.width, 0});
      }
    }
    backward<T>(grad, dq, dk, x, rstds, heads);
  });
}

}  // namespace train_sft::ops
