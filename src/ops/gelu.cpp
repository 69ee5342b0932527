#include "train_sft/ops/gelu.h"

#include <cmath>

#include "ops/dispatch.h"
#include "ops/fast.h"
#include "train_sft/base/profile.h"
#include "train_sft/ops/device_table.h"

namespace train_sft::ops {
namespace {

constexpr double kSqrt2OverPi = 0.79788456080286535588;
constexpr double kCubic = 0.044715;

template <typename T>
void forward(T* out, const T* input, int64_t count) {
  using A = Accumulate<T>;
  for (int64_t i = 0; i < count; ++i) {
    const A x = input[i];
    const A t = std::tanh(A(kSqrt2OverPi) * (x + A(kCubic) * x * x * x));
    out[i] = A(0.5) * x * (1 + t);
  }
}

template <typename T>
void backward(T* grad_input, const T* grad_out, const T* input, int64_t count) {
  using A = Accumulate<T>;
  for (int64_t i = 0; i < count; ++i) {
    const A x = input[i];
    const A t = std::tanh(A(kSqrt2OverPi) * (x + A(kCubic) * x * x * x));
    const A inner = A(kSqrt2OverPi) * (1 + 3 * A(kCubic) * x * x);
    grad_input[i] = A(grad_out[i]) * (A(0.5) * (1 + t) + A(0.5) * x * (1 - t * t) * inner);
  }
}

}  // namespace

void gelu_forward(const at::Tensor& out, const at::Tensor& input) {
  const profile::Scope scope("gelu forward");
  if (const DeviceTable* device = device_table(out)) return device->gelu_forward(out, input);
  const int64_t count = input.numel();
  for_dtype(input.scalar_type(), [&]<typename T>() {
    T* y = data_of<T>(out, count);
    const T* x = data_of<T>(input, count);
    if constexpr (has_fast<T>) {
      if (const auto* fast = fast_kernels<T>()) return fast->gelu_forward(raw(y), raw(x), count);
    }
    forward<T>(y, x, count);
  });
}

void gelu_backward(const at::Tensor& grad_input, const at::Tensor& grad_out,
                   const at::Tensor& input) {
  const profile::Scope scope("gelu backward");
  if (const DeviceTable* device = device_table(grad_input))
    return device->gelu_backward(grad_input, grad_out, input);
  const int64_t count = input.numel();
  for_dtype(input.scalar_type(), [&]<typename T>() {
    T* dx = data_of<T>(grad_input, count);
    const T *dy = data_of<T>(grad_out, count), *x = data_of<T>(input, count);
    if constexpr (has_fast<T>) {
      if (const auto* fast = fast_kernels<T>()) {
        return fast->gelu_backward(raw(dx), raw(dy), raw(x), count);
      }
    }
    backward<T>(dx, dy, x, count);
  });
}

}  // namespace train_sft::ops
