// Muon (Jordan et al. 2024, "Muon: an optimizer for hidden layers in neural networks"): momentum,
// made orthogonal by a quintic Newton–Schulz iteration.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>

namespace train_sft::ops {

struct MuonStep {
  double lr = 0;
  double momentum = 0.95;   // Nesterov's
  double weight_decay = 0;  // decoupled
  double grad_scale = 1;    // clip factor / denominator, applied to the gradient sums
};

// For a matrix of R × C: columns [first_column, first_column + C) of a parameter whose rows are
// `stride` elements.
struct MuonShape {
  int64_t rows, columns, stride, first_column = 0;
};

// Elements that muon() needs as scratch.
int64_t muon_scratch(const MuonShape& shape);

// g = grad · grad_scale;  m = μ m + (1-μ) g;  O = orthogonal(μ m + (1-μ) g)
// master = master (1 - lr wd) - lr · 0.2 √max(R, C) · O;  compute = master, rounded
// The factor (Liu et al. 2025, "Muon is scalable for LLM training") gives updates the size of
// AdamW's, so that its learning rate and weight decay serve both.
// master, grad, momentum: float, the whole parameter; compute of any compute dtype, undefined when
// it is the master itself.
void muon(const at::Tensor& master, const at::Tensor& compute, const at::Tensor& grad,
          const at::Tensor& momentum, const at::Tensor& scratch, const MuonShape& shape,
          const MuonStep& step);

// The same through a device's table, its products in the dtype of `compute` (of the masters
// without) as its scratch is; in bfloat16 the result has that many digits. lr, grad_scale and
// whether to skip are those of `update`: a skipped step writes nothing but scratch. squares: a
// double of the device's, scratch too. Queued; nothing is allocated.
struct DeviceTable;
struct DeviceUpdate;
void muon_on_device(const DeviceTable& device, const at::Tensor& master, const at::Tensor& compute,
                    const at::Tensor& grad, const at::Tensor& momentum, const at::Tensor& scratch,
                    double* squares, const MuonShape& shape, const DeviceUpdate* update,
                    const MuonStep& step);

}  // namespace train_sft::ops
