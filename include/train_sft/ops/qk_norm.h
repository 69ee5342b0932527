// RMS normalisation of each head of queries and keys before their rotation, with one weight for the
// channels of all query heads and one for those of all key heads (Henry et al. 2020; as in
// transformers' modeling_qwen3.py).
#pragma once

#include <ATen/core/Tensor.h>

#include "train_sft/ops/attention.h"

namespace train_sft::ops {

// The q and k heads of qkv [N, (H + 2 Hkv) D], in place: x · rstd · weight. Their inputs are copied
// to input [N, (H + Hkv) D] and rstd [N, H + Hkv] is float (double when qkv is), for the backward;
// undefined tensors: not kept. q_weight, k_weight [D], of qkv's dtype.
void qk_norm_forward(const at::Tensor& qkv, const at::Tensor& input, const at::Tensor& rstd,
                     const at::Tensor& q_weight, const at::Tensor& k_weight, double eps,
                     const AttentionShape& shape);

// grad_qkv's q and k heads, in place: from the gradient of the normalised to that of input. Adds to
// grad_q_weight, grad_k_weight [D], which may be undefined: frozen. Bits repeat for a thread count.
void qk_norm_backward(const at::Tensor& grad_qkv, const at::Tensor& grad_q_weight,
                      const at::Tensor& grad_k_weight, const at::Tensor& input,
                      const at::Tensor& rstd, const at::Tensor& q_weight,
                      const at::Tensor& k_weight, const AttentionShape& shape);

}  // namespace train_sft::ops
