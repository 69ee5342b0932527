#include "train_sft/ops/linear.h"

#include "ops/dispatch.h"
#include "ops/fast.h"
#include "ops/gemm.h"
#include "train_sft/base/profile.h"
#include "train_sft/ops/device_table.h"

namespace train_sft::ops {
namespace {

struct Shape {
  int64_t in, out;
};

Shape shape_of(const at::Tensor& weight, WeightLayout layout) {
  const int64_t rows = rows_of(weight), columns = columns_of(weight);
  return layout == WeightLayout::in_out ? Shape{rows, columns} : Shape{columns, rows};
}

template <typename T>
void add_column_sums(Accumulate<T>* sums, const T* x, int64_t N, int64_t C) {
  for (int64_t n = 0; n < N; ++n) {
    for (int64_t c = 0; c < C; ++c) sums[c] += static_cast<Accumulate<T>>(x[n * C + c]);
  }
}

}  // namespace

void linear_forward(const at::Tensor& out, const at::Tensor& input, const at::Tensor& weight,
                    const at::Tensor& bias, WeightLayout layout) {
  const profile::Scope scope("linear forward");
  if (const DeviceTable* device = device_table(out))
    return device->gemm(out, input, false, weight, layout == WeightLayout::out_in, 1, bias, false);
  const auto [I, O] = shape_of(weight, layout);
  const int64_t N = rows_of(input);
  for_dtype(out.scalar_type(), [&, I = I, O = O]<typename T>() {
    const Operand<T> x{data_of<T>(input, N * I), I};
    const Operand<T> w{data_of<T>(weight, I * O), weight.size(1), layout == WeightLayout::out_in};
    gemm<T, T>(data_of<T>(out, N * O), O, {N, O, I}, x, w, data_or_null<T>(bias, O), false);
  });
}

void linear_backward_input(const at::Tensor& grad_input, const at::Tensor& grad_out,
                           const at::Tensor& weight, WeightLayout layout, bool accumulate) {
  const profile::Scope scope("linear backward to the input");
  if (const DeviceTable* device = device_table(grad_input))
    return device->gemm(grad_input, grad_out, false, weight, layout == WeightLayout::in_out, 1, {},
                        accumulate);
  const auto [I, O] = shape_of(weight, layout);
  const int64_t N = rows_of(grad_out);
  for_dtype(grad_out.scalar_type(), [&, I = I, O = O]<typename T>() {
    const Operand<T> dy{data_of<T>(grad_out, N * O), O};
    const Operand<T> w{data_of<T>(weight, I * O), weight.size(1), layout == WeightLayout::in_out};
    gemm<T, T>(data_of<T>(grad_input, N * I), I, {N, I, O}, dy, w, nullptr, accumulate);
  });
}

void linear_backward_weight(const at::Tensor& grad_weight, const at::Tensor& input,
                            const at::Tensor& grad_out, WeightLayout layout) {
  const profile::Scope scope("linear backward to the weight");
  if (const DeviceTable* device = device_table(grad_weight)) {
    const bool in_out = layout == WeightLayout::in_out;
    return device->gemm(grad_weight, in_out ? input : grad_out, true, in_out ? grad_out : input,
                        false, 1, {}, true);
  }
  const auto [I, O] = shape_of(grad_weight, layout);
  const int64_t N = rows_of(grad_out);
  for_dtype(grad_out.scalar_type(), [&, I = I, O = O]<typename T>() {
    using A = Accumulate<T>;
    A* dw = data_of<A>(grad_weight, I * O);
    const T* x = data_of<T>(input, N * I);
    const T* dy = data_of<T>(grad_out, N * O);
    if (layout == WeightLayout::in_out) {
      gemm<T, A>(dw, O, {I, O, N}, {x, I, true}, {dy, O, false}, nullptr, true);
    } else {
      gemm<T, A>(dw, I, {O, I, N}, {dy, O, true}, {x, I, false}, nullptr, true);
    }
  });
}

void linear_backward_bias(const at::Tensor& grad_bias, const at::Tensor& grad_out) {
  const profile::Scope scope("linear backward to the bias");
  if (const DeviceTable* device = device_table(grad_bias))
    return device->linear_backward_bias(grad_bias, grad_out);
  const int64_t N = rows_of(grad_out), O = columns_of(grad_out);
  for_dtype(grad_out.scalar_type(), [&]<typename T>() {
    Accumulate<T>* sums = data_of<Accumulate<T>>(grad_bias, O);
    const T* dy = data_of<T>(grad_out, N * O);
    if constexpr (has_fast<T>) {
      if (const auto* fast = fast_kernels<T>()) {
        return fast->add_to_rows(sums, nullptr, raw(dy), N, O);
      }
    }
    add_column_sums(sums, dy, N, O);
  });
}

}  // namespace train_sft::ops
