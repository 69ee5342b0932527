// Initial weights.
#pragma once

#include <ATen/core/Tensor.h>

#include "train_sft/base/rng.h"

namespace train_sft::ops {

// out[i] = deviation × rng.normal(i), the same bits on every machine. out: float or double,
// contiguous.
void normal(const at::Tensor& out, double deviation, const CounterRng& rng);

}  // namespace train_sft::ops
