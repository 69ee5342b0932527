#include "train_sft/ops/adamw.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "ops/dispatch.h"

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

// Blocks of fixed size, each summed in order, then the blocks in order: independent of threads.
template <typename P>
double blocked_sum_of_squares(const P* x, int64_t count) {
  constexpr int64_t kBlock = 1 << 16;
  const int64_t blocks = (count + kBlock - 1) / kBlock;
  thread_local std::vector<double> sums;
  sums.assign(blocks, 0.0);
  double* sum = sums.data();
#pragma omp parallel for schedule(static)
  for (int64_t b = 0; b < blocks; ++b) {
    double block_sum = 0;
    for (int64_t i = b * kBlock; i < std::min(count, (b + 1) * kBlock); ++i) {
      block_sum += static_cast<double>(x[i]) * static_cast<double>(x[i]);
    }
    sum[b] = block_sum;
  }
  double total = 0;
  for (int64_t b = 0; b < blocks; ++b) total += sum[b];
  return total;
}

}  // namespace

void adamw(const at::Tensor& master, const at::Tensor& compute, const at::Tensor& grad,
           const at::Tensor& exp_avg, const at::Tensor& exp_avg_sq, const AdamWStep& step) {
  const int64_t n = master.numel();
  auto run = [&]<typename P>() {
    const at::ScalarType type = compute.defined() ? compute.scalar_type() : scalar_type<P>;
    for_dtype(type, [&]<typename T>() {
      update<P, T>(data_of<P>(master, n), data_or_null<T>(compute, n), data_of<P>(grad, n),
                   data_of<P>(exp_avg, n), data_of<P>(exp_avg_sq, n), step, n);
    });
  };
  if (master.scalar_type() == at::kDouble) {
    run.operator()<double>();
  } else {
    run.operator()<float>();
  }
}

double sum_of_squares(const at::Tensor& flat) {
  const int64_t n = flat.numel();
  if (flat.scalar_type() == at::kDouble) {
    return blocked_sum_of_squares(data_of<double>(flat, n), n);
  }
  return blocked_sum_of_squares(data_of<float>(flat, n), n);
}

}  // namespace train_sft::ops
