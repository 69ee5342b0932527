// SwiGLU (Shazeer 2020): silu(gate) * up, over a fused activation [N, 2F] = gate | up.
#pragma once

#include <ATen/core/Tensor.h>

namespace train_sft::ops {

// out [N, F].
void swiglu_forward(const at::Tensor& out, const at::Tensor& gate_up);
// grad_gate_up [N, 2F] may alias gate_up.
void swiglu_backward(const at::Tensor& grad_gate_up, const at::Tensor& grad_out,
                     const at::Tensor& gate_up);

}  // namespace train_sft::ops
