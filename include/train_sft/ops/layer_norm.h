// Layer normalisation (Ba et al. 2016) with the residual addition that precedes it.
#pragma once

#include <ATen/core/Tensor.h>

namespace train_sft::ops {

// residual_out = residual + delta;  normed = (residual_out - mean) * rstd * weight + bias
// All [N, C] of dtype T; weight and bias [C] of T; mean and rstd [N], float (double when T is).
// delta undefined: residual_out is not written (and may be undefined) and residual is normalised.
// residual_out may alias residual or delta. Sums in float (double when T is).
void layer_norm_forward(const at::Tensor& normed, const at::Tensor& residual_out,
                        const at::Tensor& mean, const at::Tensor& rstd, const at::Tensor& residual,
                        const at::Tensor& delta, const at::Tensor& weight, const at::Tensor& bias,
                        double eps);

// input is what was normalised (residual_out). grad_input += (accumulate) or = the gradient through
// the norm: accumulating adds it to the gradient that flows along the residual path. grad_weight
// and grad_bias [C] (float, double when T is) are added to; undefined: frozen. grad_input may alias
// grad_normed when accumulate is false.
void layer_norm_backward(const at::Tensor& grad_input, const at::Tensor& grad_weight,
                         const at::Tensor& grad_bias, const at::Tensor& grad_normed,
                         const at::Tensor& input, const at::Tensor& mean, const at::Tensor& rstd,
                         const at::Tensor& weight, bool accumulate = true);

}  // namespace train_sft::ops
