#include "train_sft/ops/lora.h"

#include <algorithm>

#include "ops/dispatch.h"
#include "ops/gemm.h"
#include "train_sft/base/profile.h"
#include "train_sft/ops/device_table.h"

namespace train_sft::ops {
namespace {

struct LoraShape {
  int64_t N, in, out, rank, low;  // low: columns of the low-rank activations, rank × targets
};

LoraShape lora_shape(const at::Tensor& out, const at::Tensor& input, const Lora& lora) {
  const int64_t targets = static_cast<int64_t>(lora.targets.size());
  const LoraShape s{rows_of(input), columns_of(input), columns_of(out),
                    rows_of(lora.a) / std::max<int64_t>(targets, 1), rows_of(lora.a)};
  TRAIN_SFT_CHECK(targets > 0 && s.rank * targets == s.low, "{} rows of A for {} targets", s.low,
                  targets);
  TRAIN_SFT_CHECK(rows_of(out) == s.N, "{} rows out, {} in", rows_of(out), s.N);
  for (const Lora::Target& target : lora.targets) {
    TRAIN_SFT_CHECK(columns_of(target.b) == s.rank, "B has {} columns, A rank {}",
                    columns_of(target.b), s.rank);
    TRAIN_SFT_CHECK(target.column >= 0 && target.column + rows_of(target.b) <= s.out,
                    "columns {} … {} of {}", target.column, target.column + rows_of(target.b),
                    s.out);
  }
  return s;
}

template <typename T>
void multiply(T* values, int64_t count, double scale) {
  using A = Accumulate<T>;
  for (int64_t i = 0; i < count; ++i) values[i] = static_cast<T>(A(values[i]) * A(scale));
}

void lora_forward(const DeviceTable& device, const at::Tensor& out, const at::Tensor& low,
                  const at::Tensor& input, const Lora& lora, const LoraShape& s) {
  device.gemm(low, input, false, lora.a, true, lora.scale, {}, false);
  int64_t first = 0;
  for (const Lora::Target& target : lora.targets) {
    device.gemm(out.narrow(1, target.column, rows_of(target.b)), low.narrow(1, first, s.rank),
                false, target.b, true, 1, {}, true);
    first += s.rank;
  }
}

void lora_backward(const DeviceTable& device, const at::Tensor& grad_input,
                   const at::Tensor& grad_low, const at::Tensor& grad_out, const at::Tensor& input,
                   const at::Tensor& low, const Lora& lora, const LoraShape& s) {
  int64_t first = 0;
  for (const Lora::Target& target : lora.targets) {
    const at::Tensor dy = grad_out.narrow(1, target.column, rows_of(target.b));
    device.gemm(grad_low.narrow(1, first, s.rank), dy, false, target.b, false, lora.scale, {},
                false);
    if (target.grad_b.defined())
      device.gemm(target.grad_b, dy, true, low.narrow(1, first, s.rank), false, 1, {}, true);
    first += s.rank;
  }
  if (lora.grad_a.defined()) device.gemm(lora.grad_a, grad_low, true, input, false, 1, {}, true);
  device.gemm(grad_input, grad_low, false, lora.a, false, 1, {}, true);
}

}  // namespace

void lora_forward(const at::Tensor& out, const at::Tensor& low, const at::Tensor& input,
                  const Lora& lora) {
  const profile::Scope scope("LoRA forward");
  const LoraShape s = lora_shape(out, input, lora);
  if (const DeviceTable* device = device_table(out))
    return lora_forward(*device, out, low, input, lora, s);
  for_dtype(out.scalar_type(), [&]<typename T>() {
    T* y = data_of<T>(out, s.N * s.out);
    T* xa = data_of<T>(low, s.N * s.low);
    const T* x = data_of<T>(input, s.N * s.in);
    const T* a = data_of<T>(lora.a, s.low * s.in);
    gemm<T, T>(xa, s.low, {s.N, s.low, s.in}, {x, s.in}, {a, s.in, true}, nullptr, false);
    multiply(xa, s.N * s.low, lora.scale);
    int64_t first = 0;
    for (const Lora::Target& target : lora.targets) {
      const int64_t O = rows_of(target.b);
      const T* b = data_of<T>(target.b, O * s.rank);
      gemm<T, T>(y + target.column, s.out, {s.N, O, s.rank}, {xa + first, s.low}, {b, s.rank, true},
                 nullptr, true);
      first += s.rank;
    }
  });
}

void lora_backward(const at::Tensor& grad_input, const at::Tensor& grad_low,
                   const at::Tensor& grad_out, const at::Tensor& input, const at::Tensor& low,
                   const Lora& lora) {
  const profile::Scope scope("LoRA backward");
  const LoraShape s = lora_shape(grad_out, input, lora);
  if (const DeviceTable* device = device_table(grad_out))
    return lora_backward(*device, grad_input, grad_low, grad_out, input, low, lora, s);
  for_dtype(grad_out.scalar_type(), [&]<typename T>() {
    using A = Accumulate<T>;
    const T* dy = data_of<T>(grad_out, s.N * s.out);
    const T* x = data_of<T>(input, s.N * s.in);
    const T* xa = data_of<T>(low, s.N * s.low);
    const T* a = data_of<T>(lora.a, s.low * s.in);
    T* dxa = data_of<T>(grad_low, s.N * s.low);
    T* dx = data_of<T>(grad_input, s.N * s.in);
    int64_t first = 0;
    for (const Lora::Target& target : lora.targets) {
      const int64_t O = rows_of(target.b);
      const T* b = data_of<T>(target.b, O * s.rank);
      const T* dy_target = dy + target.column;
      gemm<T, T>(dxa + first, s.low, {s.N, s.rank, O}, {dy_target, s.out}, {b, s.rank}, nullptr,
                 false);
      // The scale is in the low-rank activations already.
      if (A* db = data_or_null<A>(target.grad_b, O * s.rank))
        gemm<T, A>(db, s.rank, {O, s.rank, s.N}, {dy_target, s.out, true}, {xa + first, s.low},
                   nullptr, true);
      first += s.rank;
    }
    multiply(dxa, s.N * s.low, lora.scale);
    if (A* da = data_or_null<A>(lora.grad_a, s.low * s.in))
      gemm<T, A>(da, s.in, {s.low, s.in, s.N}, {dxa, s.low, true}, {x, s.in}, nullptr, true);
    gemm<T, T>(dx, s.in, {s.N, s.in, s.low}, {dxa, s.low}, {a, s.in}, nullptr, true);
  });
}

}  // namespace train_sft::ops
