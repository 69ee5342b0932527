// Low-rank updates of a linear layer (Hu et al. 2021, LoRA). Activations and weights have one dtype
// T; weight gradients are float (double when T is).
#pragma once

#include <ATen/core/Tensor.h>

#include <vector>

namespace train_sft::ops {

// For P targets that share one product: q, k, v.
struct Lora {
  struct Target {
    at::Tensor b;        // [O, r]
    at::Tensor grad_b;   // undefined: not wanted
    int64_t column = 0;  // its outputs are columns column … column + O
  };
  at::Tensor a;       // [P·r, in], one target's rows after another's
  at::Tensor grad_a;  // undefined: not wanted
  std::vector<Target> targets;
  double scale = 0;  // alpha / r

  bool defined() const { return a.defined(); }
};

// out [N, ·], columns of target p += scale · input [N, in] · A_pᵀ · B_pᵀ.
// low [N, P·r] keeps scale · input · Aᵀ for the backward.
void lora_forward(const at::Tensor& out, const at::Tensor& low, const at::Tensor& input,
                  const Lora& lora);

// grad_input [N, in] and the gradients of A and B are added to. grad_low [N, P·r] is scratch.
void lora_backward(const at::Tensor& grad_input, const at::Tensor& grad_low,
                   const at::Tensor& grad_out, const at::Tensor& input, const at::Tensor& low,
                   const Lora& lora);

}  // namespace train_sft::ops
