#include "train_sft/ops/swiglu.h"

#include <cmath>

#include "ops/dispatch.h"
#include "ops/fast.h"
#include "train_sft/base/profile.h"
#include "train_sft/ops/device_table.h"

namespace train_sft::ops {
namespace {

template <typename T>
void forward(T* out, const T* gate_up, int64_t N, int64_t F) {
  using A = Accumulate<T>;
  for (int64_t n = 0; n < N; ++n) {
    const T* gate = gate_up + n * 2 * F;
    for (int64_t f = 0; f < F; ++f) {
      const A g = gate[f], up = gate[F + f];
      out[n * F + f] = g / (1 + std::exp(-g)) * up;
    }
  }
}

template <typename T>
void backward(T* grad_gate_up, const T* grad_out, const T* gate_up, int64_t N, int64_t F) {
  using A = Accumulate<T>;
  for (int64_t n = 0; n < N; ++n) {
    const T* gate = gate_up + n * 2 * F;
    T* grad = grad_gate_up + n * 2 * F;
    for (int64_t f = 0; f < F; ++f) {
      const A g = gate[f], up = gate[F + f], dy = grad_out[n * F + f];
      const A sigmoid = 1 / (1 + std::exp(-g));
      grad[f] = dy * up * sigmoid * (1 + g * (1 - sigmoid));
      grad[F + f] = dy * g * sigmoid;
    }
  }
}

}  // namespace

void swiglu_forward(const at::Tensor& out, const at::Tensor& gate_up) {
  const profile::Scope scope("swiglu forward");
  if (const DeviceTable* device = device_table(out)) return device->swiglu_forward(out, gate_up);
  const int64_t N = rows_of(out), F = columns_of(out);
  for_dtype(out.scalar_type(), [&]<typename T>() {
    T* y = data_of<T>(out, N * F);
    const T* x = data_of<T>(gate_up, N * 2 * F);
    if constexpr (has_fast<T>) {
      if (const auto* fast = fast_kernels<T>()) return fast->swiglu_forward(raw(y), raw(x), N, F);
    }
    forward<T>(y, x, N, F);
  });
}

void swiglu_backward(const at::Tensor& grad_gate_up, const at::Tensor& grad_out,
                     const at::Tensor& gate_up) {
  const profile::Scope scope("swiglu backward");
  if (const DeviceTable* device = device_table(grad_gate_up))
    return device->swiglu_backward(grad_gate_up, grad_out, gate_up);
  const int64_t N = rows_of(grad_out), F = columns_of(grad_out);
  for_dtype(grad_out.scalar_type(), [&]<typename T>() {
    T* dx = data_of<T>(grad_gate_up, N * 2 * F);
    const T *dy = data_of<T>(grad_out, N * F), *x = data_of<T>(gate_up, N * 2 * F);
    if constexpr (has_fast<T>) {
      if (const auto* fast = fast_kernels<T>()) {
        return fast->swiglu_backward(raw(dx), raw(dy), raw(x), N, F);
      }
    }
    backward<T>(dx, dy, x, N, F);
  });
}

}  // namespace train_sft::ops
