// The ops of a layer that differ between the families, behind one name each.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <span>

#include "model/activations.h"
#include "model/weights.h"
#include "train_sft/config/model_config.h"
#include "train_sft/ops/attention.h"

namespace train_sft {

class Fp8Linears;

// Shapes and aliasing are those of the ops. Tensors that a family lacks (the mean of RMSNorm) are
// undefined.
class FamilyOps {
 public:
  FamilyOps(const ModelConfig& config, at::ScalarType compute, c10::Device device);

  void norm_forward(const at::Tensor& normed, const at::Tensor& residual_out,
                    const at::Tensor& mean, const at::Tensor& rstd, const at::Tensor& residual,
                    const at::Tensor& delta, const NormWeights& w) const;
  void norm_backward(const at::Tensor& grad_input, const at::Tensor& grad_normed,
                     const at::Tensor& input, const at::Tensor& mean, const at::Tensor& rstd,
                     const NormWeights& w, bool accumulate) const;

  // low: the low-rank activations, where w has an adapter.
  void linear_forward(const at::Tensor& out, const at::Tensor& input, const LinearWeights& w,
                      const LowRank& low) const;
  // grad_input is overwritten; the weights' gradients are added to.
  void linear_backward(const at::Tensor& grad_input, const at::Tensor& grad_out,
                       const at::Tensor& input, const LinearWeights& w, const LowRank& low) const;

  void activation_forward(const at::Tensor& out, const at::Tensor& up) const;
  // Consumes grad_out and up, one of which holds the result; returns that one.
  const at::Tensor& activation_backward(const at::Tensor& grad_out, const at::Tensor& up) const;

  // Normalises the heads of q and k where the model does so. input, rstd: what the backward needs.
  void qk_norm_forward(const at::Tensor& qkv, const at::Tensor& input, const at::Tensor& rstd,
                       const LayerWeights& w) const;
  void qk_norm_backward(const at::Tensor& grad_qkv, const at::Tensor& input, const at::Tensor& rstd,
                        const LayerWeights& w) const;

  // Rotates q and k where the family has RoPE.
  void rope_forward(const at::Tensor& qkv, std::span<const int32_t> positions) const;
  void rope_backward(const at::Tensor& grad_qkv, std::span<const int32_t> positions) const;

  // Linear layers with a number are computed by these from now on; null: by none.
  void use_fp8(Fp8Linears* linears) { fp8_ = linears; }

  const ops::AttentionShape& attention() const { return attention_; }

 private:
  bool llama_, qk_norm_;
  double norm_eps_;
  ops::WeightLayout layout_;
  Fp8Linears* fp8_ = nullptr;
  ops::AttentionShape attention_;
  at::Tensor cosines_, sines_;  // [block_size, D/2]
};

}  // namespace train_sft
