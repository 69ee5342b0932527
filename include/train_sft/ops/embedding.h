// Token embedding with GPT-2's optional learned positions.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <span>

namespace train_sft::ops {

// out[n] = table[tokens[n]] + position_table[positions[n]]
// out [N, C], table [V, C], position_table [P, C] (undefined: none), one dtype T.
// Throws InternalError for an id outside its table.
void embedding_forward(const at::Tensor& out, const at::Tensor& table,
                       const at::Tensor& position_table, std::span<const int32_t> tokens,
                       std::span<const int32_t> positions);

// Adds the rows of grad_out [N, C] (dtype T) to grad_table [V, C] and grad_position_table [P, C]
// (either may be undefined), which are float, or double when T is. The order of additions to a row
// is that of the tokens. On a device the orders say it: the rows' numbers sorted by token (by
// position), then by themselves.
void embedding_backward(const at::Tensor& grad_table, const at::Tensor& grad_position_table,
                        const at::Tensor& grad_out, std::span<const int32_t> tokens,
                        std::span<const int32_t> positions,
                        std::span<const int32_t> token_order = {},
                        std::span<const int32_t> position_order = {});

}  // namespace train_sft::ops
