// GELU in its tanh form (Hendrycks & Gimpel 2016), transformers' "gelu_new".
#pragma once

#include <ATen/core/Tensor.h>

namespace train_sft::ops {

// out = gelu(input), elementwise; out may alias input.
void gelu_forward(const at::Tensor& out, const at::Tensor& input);
// grad_input = grad_out * gelu'(input); grad_input may alias grad_out or input.
void gelu_backward(const at::Tensor& grad_input, const at::Tensor& grad_out,
                   const at::Tensor& input);

}  // namespace train_sft::ops
