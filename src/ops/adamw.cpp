#include "train_sft/ops/adamw.h"

#include <ATen/ops/zeros.h>

#include <algorithm>
#include <cmath>
#include <vector>

#include "ops/dispatch.h"
#include "ops/fast.h"
#include "train_sft/base/profile.h"
#include "train_sft/ops/device_table.h"

namespace train_sft::ops {
namespace {

// P: dtype of master, gradient and moments; T: of the compute copy.
template <typename P, typename T>
void update(P* master, T* compute, const P* grad, P* exp_avg, P* exp_avg_sq, const AdamWStep& s,
            int64_t count) {
  const P step_size = P(s.lr / s.bias_correction1);
  const P inverse_root = P(1 / std::sqrt(s.bias_correction2));
  for (int64_t i = 0; i < count; ++i) {
    const P g = grad[i] * P(s.grad_scale);
    exp_avg[i] = P(s.beta1) * exp_avg[i] + P(1 - s.beta1) * g;
    exp_avg_sq[i] = P(s.beta2) * exp_avg_sq[i] + P(1 - s.beta2) * g * g;
    const P denominator = std::sqrt(exp_avg_sq[i]) * inverse_root + P(s.eps);
    master[i] = master[i] * P(1 - s.lr * s.weight_decay) - step_size * exp_avg[i] / denominator;
    if (compute != nullptr) compute[i] = static_cast<T>(master[i]);
  }
}

simd::AdamWConstants constants_of(const AdamWStep& s) {
  auto narrow = [](double x) { return static_cast<float>(x); };
  return {narrow(s.beta1),
          narrow(1 - s.beta1),
          narrow(s.beta2),
          narrow(1 - s.beta2),
          narrow(s.eps),
          narrow(s.grad_scale),
          narrow(1 - s.lr * s.weight_decay),
          narrow(s.lr / s.bias_correction1),
          narrow(1 / std::sqrt(s.bias_correction2))};
}

// Blocks of fixed size, each summed in order, then the blocks in order: independent of threads.
template <typename P>
double blocked_sum_of_squares(const P* x, int64_t count) {
  constexpr int64_t kBlock = 1 << 16;
  const int64_t blocks = (count + kBlock - 1) / kBlock;
  thread_local std::vector<double> sums;
  sums.assign(blocks, 0.0);
  double* sum = sums.data();
  const simd::Table* fast = std::is_same_v<P, float> ? simd_table() : nullptr;
  if constexpr (std::is_same_v<P, float>) {
    if (fast != nullptr) fast->block_sums_of_squares(sum, x, count, kBlock);
  }
  for (int64_t b = 0; b < blocks && fast == nullptr; ++b) {
    sum[b] = 0;
    for (int64_t i = b * kBlock; i < std::min(count, (b + 1) * kBlock); ++i) {
      sum[b] += static_cast<double>(x[i]) * static_cast<double>(x[i]);
    }
  }
  double total = 0;
  for (int64_t b = 0; b < blocks; ++b) total += sum[b];
  return total;
}

}  // namespace

void adamw(const at::Tensor& master, const at::Tensor& compute, const at::Tensor& grad,
           const at::Tensor& exp_avg, const at::Tensor& exp_avg_sq, const AdamWStep& step) {
  const profile::Scope scope("AdamW");
  const int64_t n = master.numel();
  auto run = [&]<typename P>() {
    const at::ScalarType type = compute.defined() ? compute.scalar_type() : scalar_type<P>;
    for_dtype(type, [&]<typename T>() {
      P *p = data_of<P>(master, n), *m = data_of<P>(exp_avg, n), *v = data_of<P>(exp_avg_sq, n);
      T* c = data_or_null<T>(compute, n);
      const P* g = data_of<P>(grad, n);
      if constexpr (has_fast<T> && std::is_same_v<P, float>) {
        if (const auto* fast = fast_kernels<T>()) {
          return fast->adamw({p, raw(c), g, m, v, n, constants_of(step)});
        }
      }
      update<P, T>(p, c, g, m, v, step, n);
    });
  };
  if (master.scalar_type() == at::kDouble) {
    run.operator()<double>();
  } else {
    run.operator()<float>();
  }
}

double sum_of_squares(const at::Tensor& flat) {
  const profile::Scope scope("gradient norm");
  if (const DeviceTable* device = device_table(flat)) {
    const at::Tensor sum = at::zeros({1}, flat.options().dtype(at::kDouble));
    auto* place = static_cast<double*>(sum.mutable_data_ptr());
    device->sum_of_squares(place, flat);
    double total = 0;
    device->download_end(device->download_begin(place, sizeof(total)), &total, sizeof(total));
    return total;
  }
  const int64_t n = flat.numel();
  if (flat.scalar_type() == at::kDouble) {
    return blocked_sum_of_squares(data_of<double>(flat, n), n);
  }
  return blocked_sum_of_squares(data_of<float>(flat, n), n);
}

}  // namespace train_sft::ops
