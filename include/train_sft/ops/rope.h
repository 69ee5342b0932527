// Rotary position embedding (Su et al. 2021), the "rotate half" convention of transformers' Llama:
// channel i < D/2 pairs with channel i + D/2, both turned by position * theta^(-2i/D).
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <span>

#include "train_sft/ops/attention.h"

namespace train_sft::ops {

// Fills cosines and sines [P, D/2] (float, or double for the reference) for positions 0…P-1.
void rope_table(const at::Tensor& cosines, const at::Tensor& sines, double theta);

// Turns the q and k heads of qkv [N, (H + 2 Hkv) D] in place. The tables are float (double when qkv
// is). Throws InternalError for a position outside them.
void rope_forward(const at::Tensor& qkv, const at::Tensor& cosines, const at::Tensor& sines,
                  std::span<const int32_t> positions, const AttentionShape& shape);
// Turns the gradient back: the transpose of the forward rotation.
void rope_backward(const at::Tensor& grad_qkv, const at::Tensor& cosines, const at::Tensor& sines,
                   std::span<const int32_t> positions, const AttentionShape& shape);

}  // namespace train_sft::ops
