// Products of 8-bit operands with one scale a tensor. On the CPU they are emulated: operands are
// rounded to 8 bits, multiplied as floats and summed in float, as the hardware does.
#pragma once

#include <ATen/core/Tensor.h>

#include "train_sft/ops/device_table.h"
#include "train_sft/ops/fp8.h"

namespace train_sft::ops {

// values [rows, columns] and transposed [columns, rows], uint8 (either may be undefined) = input ×
// scale[0], rounded. amax[0] = max(amax[0], |input|); undefined: not wanted. Infinite or NaN inputs
// make amax so.
void fp8_quantize(const at::Tensor& values, const at::Tensor& transposed, const at::Tensor& amax,
                  const at::Tensor& input, const at::Tensor& scale, Fp8Format format);

// amax[0] = max(amax[0], |input|).
void fp8_amax(const at::Tensor& amax, const at::Tensor& input);

// For each of S tensors: its history [H] moves on by one and takes amax, which becomes 0; scale and
// scale_inverse from the largest of the history. largest [S]: of the tensors' formats.
void fp8_update_scales(const at::Tensor& history, const at::Tensor& amax, const at::Tensor& scale,
                       const at::Tensor& scale_inverse, const at::Tensor& largest, double margin);

// out [M, N] = (or +=) a [M, K] · b [N, K]ᵀ (+ bias [N]); out of T or float.
void fp8_matmul(const at::Tensor& out, const Fp8Operand& a, const Fp8Operand& b,
                const at::Tensor& bias, bool accumulate);

}  // namespace train_sft::ops
