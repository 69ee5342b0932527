#include "model/family_ops.h"

#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>

#include "model/fp8_linears.h"
#include "train_sft/ops/gelu.h"
#include "train_sft/ops/layer_norm.h"
#include "train_sft/ops/linear.h"
#include "train_sft/ops/qk_norm.h"
#include "train_sft/ops/rms_norm.h"
#include "train_sft/ops/rope.h"
#include "train_sft/ops/swiglu.h"

namespace train_sft {

FamilyOps::FamilyOps(const ModelConfig& config, at::ScalarType compute, c10::Device device)
    : llama_(config.family == Family::llama),
      qk_norm_(config.qk_norm),
      norm_eps_(config.norm_eps),
      layout_(llama_ ? ops::WeightLayout::out_in : ops::WeightLayout::in_out),
      attention_{config.n_head, config.kv_heads(), config.head_dim()} {
  if (!llama_) return;
  const auto dtype = compute == at::kDouble ? at::kDouble : at::kFloat;
  cosines_ = at::empty({config.block_size, config.head_dim() / 2}, dtype);
  sines_ = at::empty({config.block_size, config.head_dim() / 2}, dtype);
  ops::rope_table(cosines_, sines_, config.rope_theta);
  if (device.is_cpu()) return;
  cosines_ = at::empty_like(cosines_, device).copy_(cosines_);
  sines_ = at::empty_like(sines_, device).copy_(sines_);
}

void FamilyOps::norm_forward(const at::Tensor& normed, const at::Tensor& residual_out,
                             const at::Tensor& mean, const at::Tensor& rstd,
                             const at::Tensor& residual, const at::Tensor& delta,
                             const NormWeights& w) const {
  if (llama_) {
    ops::rms_norm_forward(normed, residual_out, rstd, residual, delta, w.weight, norm_eps_);
  } else {
    ops::layer_norm_forward(normed, residual_out, mean, rstd, residual, delta, w.weight, w.bias,
                            norm_eps_);
  }
}

void FamilyOps::norm_backward(const at::Tensor& grad_input, const at::Tensor& grad_normed,
                              const at::Tensor& input, const at::Tensor& mean,
                              const at::Tensor& rstd, const NormWeights& w, bool accumulate) const {
  if (llama_) {
    ops::rms_norm_backward(grad_input, w.grad_weight, grad_normed, input, rstd, w.weight,
                           accumulate);
  } else {
    ops::layer_norm_backward(grad_input, w.grad_weight, w.grad_bias, grad_normed, input, mean, rstd,
                             w.weight, accumulate);
  }
}

void FamilyOps::linear_forward(const at::Tensor& out, const at::Tensor& input,
                               const LinearWeights& w, const LowRank& low) const {
  if (fp8_ != nullptr && w.fp8 >= 0)
    fp8_->forward(out, input, w.weight, w.bias, layout_, w.fp8);
  else
    ops::linear_forward(out, input, w.weight, w.bias, layout_);
  if (w.lora.defined()) ops::lora_forward(out, low.value, input, w.lora);
}

void FamilyOps::linear_backward(const at::Tensor& grad_input, const at::Tensor& grad_out,
                                const at::Tensor& input, const LinearWeights& w,
                                const LowRank& low) const {
  const bool fp8 = fp8_ != nullptr && w.fp8 >= 0;
  if (w.grad_weight.defined()) {
    if (fp8)
      fp8_->backward_weight(w.grad_weight, input, grad_out, layout_, w.fp8);
    else
      ops::linear_backward_weight(w.grad_weight, input, grad_out, layout_);
  }
  if (w.grad_bias.defined()) ops::linear_backward_bias(w.grad_bias, grad_out);
  if (fp8)
    fp8_->backward_input(grad_input, grad_out, layout_, w.fp8);
  else
    ops::linear_backward_input(grad_input, grad_out, w.weight, layout_);
  if (w.lora.defined())
    ops::lora_backward(grad_input, low.gradient, grad_out, input, low.value, w.lora);
}

void FamilyOps::activation_forward(const at::Tensor& out, const at::Tensor& up) const {
  if (llama_)
    ops::swiglu_forward(out, up);
  else
    ops::gelu_forward(out, up);
}

const at::Tensor& FamilyOps::activation_backward(const at::Tensor& grad_out,
                                                 const at::Tensor& up) const {
  if (llama_) {
    ops::swiglu_backward(up, grad_out, up);  // twice as wide as grad_out: over its input
    return up;
  }
  ops::gelu_backward(grad_out, grad_out, up);
  return grad_out;
}

void FamilyOps::qk_norm_forward(const at::Tensor& qkv, const at::Tensor& input,
                                const at::Tensor& rstd, const LayerWeights& w) const {
  if (qk_norm_)
    ops::qk_norm_forward(qkv, input, rstd, w.q_norm.weight, w.k_norm.weight, norm_eps_, attention_);
}

void FamilyOps::qk_norm_backward(const at::Tensor& grad_qkv, const at::Tensor& input,
                                 const at::Tensor& rstd, const LayerWeights& w) const {
  if (qk_norm_)
    ops::qk_norm_backward(grad_qkv, w.q_norm.grad_weight, w.k_norm.grad_weight, input, rstd,
                          w.q_norm.weight, w.k_norm.weight, attention_);
}

void FamilyOps::rope_forward(const at::Tensor& qkv, std::span<const int32_t> positions) const {
  if (llama_) ops::rope_forward(qkv, cosines_, sines_, positions, attention_);
}

void FamilyOps::rope_backward(const at::Tensor& grad_qkv,
                              std::span<const int32_t> positions) const {
  if (llama_) ops::rope_backward(grad_qkv, cosines_, sines_, positions, attention_);
}

}  // namespace train_sft
