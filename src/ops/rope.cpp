#include "train_sft/ops/rope.h"

#include <cmath>

#include "ops/dispatch.h"
#include "ops/fast.h"
#include "train_sft/base/profile.h"
#include "train_sft/ops/device_table.h"

namespace train_sft::ops {
namespace {

// direction 1 turns forward, -1 back.
template <typename T>
void rotate(T* qkv, const Accumulate<T>* cosines, const Accumulate<T>* sines,
            std::span<const int32_t> positions, const AttentionShape& shape, int direction) {
  using A = Accumulate<T>;
  const int64_t half = shape.head_dim / 2;
  for (size_t n = 0; n < positions.size(); ++n) {
    const A* cosine = cosines + positions[n] * half;
    const A* sine = sines + positions[n] * half;
    for (int64_t h = 0; h < shape.n_head + shape.n_kv_head; ++h) {
      T* x = qkv + n * shape.qkv_width() + h * shape.head_dim;
      for (int64_t i = 0; i < half; ++i) {
        const A a = x[i], b = x[i + half], s = direction * sine[i];
        x[i] = a * cosine[i] - b * s;
        x[i + half] = b * cosine[i] + a * s;
      }
    }
  }
}

void rotate(const at::Tensor& qkv, const at::Tensor& cosines, const at::Tensor& sines,
            std::span<const int32_t> positions, const AttentionShape& shape, int direction) {
  const int64_t N = static_cast<int64_t>(positions.size()), P = rows_of(cosines);
  TRAIN_SFT_CHECK(shape.head_dim % 2 == 0, "head_dim {} is odd", shape.head_dim);
  for (int32_t position : positions) {
    TRAIN_SFT_CHECK(position >= 0 && position < P, "position {} outside the table of {}", position,
                    P);
  }
  for_dtype(qkv.scalar_type(), [&]<typename T>() {
    using A = Accumulate<T>;
    const int64_t half = shape.head_dim / 2;
    T* x = data_of<T>(qkv, N * shape.qkv_width());
    const A *cosine = data_of<A>(cosines, P * half), *sine = data_of<A>(sines, P * half);
    if constexpr (has_fast<T>) {
      if (const auto* fast = fast_kernels<T>()) {
        return fast->rope(raw(x), cosine, sine, positions.data(), N, shape.n_head + shape.n_kv_head,
                          shape.head_dim, shape.qkv_width(), static_cast<float>(direction));
      }
    }
    rotate<T>(x, cosine, sine, positions, shape, direction);
  });
}

}  // namespace

void rope_table(const at::Tensor& cosines, const at::Tensor& sines, double theta) {
  const int64_t P = rows_of(cosines), half = columns_of(cosines);
  for_dtype(cosines.scalar_type(), [&]<typename T>() {
    T* cosine = data_of<T>(cosines, P * half);
    T* sine = data_of<T>(sines, P * half);
    for (int64_t i = 0; i < half; ++i) {
      const double frequency = std::pow(theta, -static_cast<double>(i) / half);
      for (int64_t p = 0; p < P; ++p) {
        cosine[p * half + i] = static_cast<T>(std::cos(p * frequency));
        sine[p * half + i] = static_cast<T>(std::sin(p * frequency));
      }
    }
  });
}

void rope_forward(const at::Tensor& qkv, const at::Tensor& cosines, const at::Tensor& sines,
                  std::span<const int32_t> positions, const AttentionShape& shape) {
  const profile::Scope scope("rope");
  if (const DeviceTable* device = device_table(qkv))
    return device->rope(qkv, cosines, sines, positions.data(), shape, false);
  rotate(qkv, cosines, sines, positions, shape, 1);
}

void rope_backward(const at::Tensor& grad_qkv, const at::Tensor& cosines, const at::Tensor& sines,
                   std::span<const int32_t> positions, const AttentionShape& shape) {
  const profile::Scope scope("rope");
  if (const DeviceTable* device = device_table(grad_qkv))
    return device->rope(grad_qkv, cosines, sines, positions.data(), shape, true);
  rotate(grad_qkv, cosines, sines, positions, shape, -1);
}

}  // namespace train_sft::ops
