#include "train_sft/ops/layer_norm.h"

#include <cmath>

#include "ops/dispatch.h"
#include "ops/fast.h"
#include "train_sft/base/profile.h"
#include "train_sft/ops/device_table.h"

namespace train_sft::ops {
namespace {

template <typename T>
void forward(T* normed, T* residual_out, Accumulate<T>* mean, Accumulate<T>* rstd,
             const T* residual, const T* delta, const T* weight, const T* bias, int64_t N,
             int64_t C, double eps) {
  using A = Accumulate<T>;
  for (int64_t n = 0; n < N; ++n) {
    const T* x = residual + n * C;
    if (delta != nullptr) {
      for (int64_t c = 0; c < C; ++c) residual_out[n * C + c] = A(x[c]) + A(delta[n * C + c]);
      x = residual_out + n * C;
    }
    A sum = 0;
    for (int64_t c = 0; c < C; ++c) sum += A(x[c]);
    const A m = sum / C;
    A squares = 0;
    for (int64_t c = 0; c < C; ++c) squares += (A(x[c]) - m) * (A(x[c]) - m);
    const A r = A(1) / std::sqrt(squares / C + A(eps));
    for (int64_t c = 0; c < C; ++c) {
      normed[n * C + c] = (A(x[c]) - m) * r * A(weight[c]) + A(bias[c]);
    }
    mean[n] = m;
    rstd[n] = r;
  }
}

// With x̂ = (x - mean) rstd and g = grad_normed ⊙ weight:
//   grad_x = rstd (g - average(g) - x̂ average(g ⊙ x̂))
template <typename T>
void backward(T* grad_input, Accumulate<T>* grad_weight, Accumulate<T>* grad_bias,
              const T* grad_normed, const T* input, const Accumulate<T>* mean,
              const Accumulate<T>* rstd, const T* weight, int64_t N, int64_t C, bool accumulate) {
  using A = Accumulate<T>;
  for (int64_t n = 0; n < N; ++n) {
    const T* x = input + n * C;
    const T* dy = grad_normed + n * C;
    auto normalised = [&](int64_t c) { return (A(x[c]) - mean[n]) * rstd[n]; };
    A sum_g = 0, sum_gx = 0;
    for (int64_t c = 0; c < C; ++c) {
      const A g = A(dy[c]) * A(weight[c]);
      sum_g += g;
      sum_gx += g * normalised(c);
      if (grad_weight != nullptr) grad_weight[c] += A(dy[c]) * normalised(c);
      if (grad_bias != nullptr) grad_bias[c] += A(dy[c]);
    }
    for (int64_t c = 0; c < C; ++c) {
      const A g = A(dy[c]) * A(weight[c]);
      const A grad = rstd[n] * (g - sum_g / C - normalised(c) * (sum_gx / C));
      grad_input[n * C + c] = accumulate ? A(grad_input[n * C + c]) + grad : grad;
    }
  }
}

}  // namespace

void layer_norm_forward(const at::Tensor& normed, const at::Tensor& residual_out,
                        const at::Tensor& mean, const at::Tensor& rstd, const at::Tensor& residual,
                        const at::Tensor& delta, const at::Tensor& weight, const at::Tensor& bias,
                        double eps) {
  const profile::Scope scope("norm forward");
  if (const DeviceTable* device = device_table(normed))
    return device->layer_norm_forward(normed, residual_out, mean, rstd, residual, delta, weight,
                                      bias, eps);
  const int64_t N = rows_of(normed), C = columns_of(normed);
  for_dtype(normed.scalar_type(), [&]<typename T>() {
    using A = Accumulate<T>;
    T* y = data_of<T>(normed, N * C);
    T* sum = delta.defined() ? data_of<T>(residual_out, N * C) : nullptr;
    A *means = data_of<A>(mean, N), *rstds = data_of<A>(rstd, N);
    const T *x = data_of<T>(residual, N * C), *added = data_or_null<T>(delta, N * C);
    const T *w = data_of<T>(weight, C), *b = data_of<T>(bias, C);
    if constexpr (has_fast<T>) {
      if (const auto* fast = fast_kernels<T>()) {
        return fast->layer_norm_forward({raw(y), raw(sum), means, rstds, raw(x), raw(added), raw(w),
                                         raw(b), N, C, static_cast<float>(eps)});
      }
    }
    forward<T>(y, sum, means, rstds, x, added, w, b, N, C, eps);
  });
}

void layer_norm_backward(const at::Tensor& grad_input, const at::Tensor& grad_weight,
                         const at::Tensor& grad_bias, const at::Tensor& grad_normed,
                         const at::Tensor& input, const at::Tensor& mean, const at::Tensor& rstd,
                         const at::Tensor& weight, bool accumulate) {
  const profile::Scope scope("norm backward");
  if (const DeviceTable* device = device_table(grad_input))
    return device->layer_norm_backward(grad_input, grad_weight, grad_bias, grad_normed, input, mean,
                                       rstd, weight, accumulate);
  const int64_t N = rows_of(input), C = columns_of(input);
  for_dtype(input.scalar_type(), [&]<typename T>() {
    using A = Accumulate<T>;
    T* dx = data_of<T>(grad_input, N * C);
    A *dw = data_or_null<A>(grad_weight, C), *db = data_or_null<A>(grad_bias, C);
    const T *dy = data_of<T>(grad_normed, N * C), *x = data_of<T>(input, N * C);
    const A *means = data_of<A>(mean, N), *rstds = data_of<A>(rstd, N);
    const T* w = data_of<T>(weight, C);
    if constexpr (has_fast<T>) {
      if (const auto* fast = fast_kernels<T>()) {
        return fast->layer_norm_backward(
            {raw(dx), dw, db, raw(dy), raw(x), means, rstds, raw(w), N, C, accumulate});
      }
    }
    backward<T>(dx, dw, db, dy, x, means, rstds, w, N, C, accumulate);
  });
}

}  // namespace train_sft::ops
