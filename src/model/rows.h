// Some rows of a matrix as a matrix of their own, and back.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <span>

namespace train_sft {

// out[i] = in[rows[i]]; both contiguous, of one dtype, [·, C].
void gather_rows(const at::Tensor& out, const at::Tensor& in, std::span<const int32_t> rows);
// out[rows[i]] = in[i], and zeros in the other rows. rows ascend.
void scatter_rows(const at::Tensor& out, const at::Tensor& in, std::span<const int32_t> rows);

}  // namespace train_sft
