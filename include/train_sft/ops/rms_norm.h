// Root-mean-square normalisation (Zhang & Sennrich 2019) with the residual addition before it.
#pragma once

#include <ATen/core/Tensor.h>

namespace train_sft::ops {

// residual_out = residual + delta;  normed = residual_out * rstd * weight
// The shapes, dtypes and aliasing of layer_norm.h; rstd [N] = 1 / sqrt(mean(x²) + eps).
void rms_norm_forward(const at::Tensor& normed, const at::Tensor& residual_out,
                      const at::Tensor& rstd, const at::Tensor& residual, const at::Tensor& delta,
                      const at::Tensor& weight, double eps);

void rms_norm_backward(const at::Tensor& grad_input, const at::Tensor& grad_weight,
                       const at::Tensor& grad_normed, const at::Tensor& input,
                       const at::Tensor& rstd, const at::Tensor& weight, bool accumulate = true);

}  // namespace train_sft::ops
