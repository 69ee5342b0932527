// Linear layers. Activations and weights have one dtype T; weight gradients are float (double when
// T is) and sums are kept in at least float.
#pragma once

#include <ATen/core/Tensor.h>

namespace train_sft::ops {

enum class WeightLayout {
  in_out,  // [in, out]: GPT-2's Conv1D
  out_in,  // [out, in]: torch's Linear, Llama
};

// out [N, out] = input [N, in] · W (+ bias [out]; undefined: none).
void linear_forward(const at::Tensor& out, const at::Tensor& input, const at::Tensor& weight,
                    const at::Tensor& bias, WeightLayout layout);

// grad_input [N, in] = (or +=, accumulate) grad_out [N, out] · Wᵀ.
void linear_backward_input(const at::Tensor& grad_input, const at::Tensor& grad_out,
                           const at::Tensor& weight, WeightLayout layout, bool accumulate = false);

// grad_weight += inputᵀ · grad_out, in the weight's layout.
void linear_backward_weight(const at::Tensor& grad_weight, const at::Tensor& input,
                            const at::Tensor& grad_out, WeightLayout layout);

// grad_bias [out] += the column sums of grad_out [N, out].
void linear_backward_bias(const at::Tensor& grad_bias, const at::Tensor& grad_out);

}  // namespace train_sft::ops
