// AdamW (Loshchilov & Hutter 2019) over flat ranges, in one pass.
#pragma once

#include <ATen/core/Tensor.h>

namespace train_sft::ops {

struct AdamWStep {
  double lr = 0;
  double beta1 = 0.9, beta2 = 0.95, eps = 1e-8;
  double weight_decay = 0;      // 0 for ranges that do not decay
  double bias_correction1 = 1;  // 1 - beta1^t
  double bias_correction2 = 1;  // 1 - beta2^t
  double grad_scale = 1;        // clip factor / denominator, applied to the gradient sums
};

// g = grad * grad_scale;  m = β1 m + (1-β1) g;  v = β2 v + (1-β2) g²
// master = master (1 - lr wd) - lr / c1 * m / (sqrt(v / c2) + eps);  compute = master, rounded
// All flat [n]: master, grad, exp_avg, exp_avg_sq float (or all double); compute of any compute
// dtype, undefined when it is the master itself.
void adamw(const at::Tensor& master, const at::Tensor& compute, const at::Tensor& grad,
           const at::Tensor& exp_avg, const at::Tensor& exp_avg_sq, const AdamWStep& step);

// Σ x² in double, the same bits for any thread count. Infinite or NaN when an element is. Waits for
// a device.
double sum_of_squares(const at::Tensor& flat);

}  // namespace train_sft::ops
