#pragma once

#include <ATen/core/Tensor.h>

namespace train_sft::ops {

// tensor = 0, on the ops' threads. at::zero_ would wake OpenMP's, which then spin for milliseconds
// beside the step that follows.
void zero(const at::Tensor& tensor);

// A new buffer of [numel] zeros, which takes memory as it is touched. Throws ResourceError when the
// machine has none.
at::Tensor zeros(int64_t numel, at::ScalarType dtype);

}  // namespace train_sft::ops
