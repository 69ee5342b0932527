#pragma once

#include <ATen/core/Tensor.h>

namespace train_sft::ops {

// tensor = 0, on the ops' threads. at::zero_ would wake OpenMP's, which then spin for milliseconds
// beside the step that follows.
void zero(const at::Tensor& tensor);

}  // namespace train_sft::ops
