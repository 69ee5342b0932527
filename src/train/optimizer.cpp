#include "train_sft/train/optimizer.h"

#include <ATen/ops/zeros_like.h>

#include <cmath>

#include "train_sft/base/error.h"
#include "train_sft/ops/adamw.h"

namespace train_sft {

AdamW::AdamW(Parameters& parameters, const AdamWOptions& options)
    : parameters_(parameters),
      options_(options),
      exp_avg_(at::zeros_like(parameters.master())),
      exp_avg_sq_(at::zeros_like(parameters.master())) {
  // The gaps between parameters hold zeros with zero gradients: an update leaves them zero, so a
  // range may run across them.
  const auto& layout = parameters.layout();
  for (const auto& parameter : layout.parameters) {
    if (ranges_.empty() || ranges_.back().decay != parameter.decay)
      ranges_.push_back({parameter.offset, 0, parameter.decay});
    ranges_.back().numel = parameter.offset + parameter.numel - ranges_.back().offset;
  }
}

AdamW::Result AdamW::step(double lr, double denominator) {
  TRAIN_SFT_CHECK(denominator > 0, "a step with denominator {}", denominator);
  Result result;
  result.grad_norm = std::sqrt(ops::sum_of_squares(parameters_.gradients())) / denominator;
  if (!std::isfinite(result.grad_norm)) return result;

  double clip = 1.0;
  if (options_.grad_clip > 0)  // as torch.nn.utils.clip_grad_norm_
    clip = std::min(1.0, options_.grad_clip / (result.grad_norm + 1e-6));
  ++t;
  ops::AdamWStep update;
  update.lr = lr;
  update.beta1 = options_.beta1;
  update.beta2 = options_.beta2;
  update.eps = options_.eps;
  update.bias_correction1 = 1.0 - std::pow(options_.beta1, static_cast<double>(t));
  update.bias_correction2 = 1.0 - std::pow(options_.beta2, static_cast<double>(t));
  update.grad_scale = clip / denominator;
  const bool separate_compute = !parameters_.compute().is_same(parameters_.master());
  for (const auto& range : ranges_) {
    const auto cut = [&](const at::Tensor& flat) {
      return flat.narrow(0, range.offset, range.numel);
    };
    update.weight_decay = range.decay ? options_.weight_decay : 0.0;
    ops::adamw(cut(parameters_.master()),
               separate_compute ? cut(parameters_.compute()) : at::Tensor(),
               cut(parameters_.gradients()), cut(exp_avg_), cut(exp_avg_sq_), update);
  }
  result.applied = true;
  return result;
}

}  // namespace train_sft
