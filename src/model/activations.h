// The buffers of one forward (and backward) pass: what each holds and from when to when.
#pragma once

#include <ATen/core/Tensor.h>

#include <memory>
#include <vector>

#include "model/arena.h"
#include "train_sft/config/parameter_layout.h"
#include "train_sft/config/recompute.h"

namespace train_sft {

// The low-rank activations of an adapted linear layer; undefined without an adapter.
struct LowRank {
  at::Tensor value;     // [N, targets · rank]
  at::Tensor gradient;  // of the backward only
};

// N tokens of which L have a learned target, C = n_embd, F = ffn, H = n_head, D = head_dim, A = H
// D; T is the compute dtype, S float (double when T is).
struct LayerActivations {
  at::Tensor residual1;      // [N, C] the residual stream as the layer receives it
  at::Tensor mean1, rstd1;   // [N] S; no mean for RMSNorm
  at::Tensor normed1;        // [N, C] of the forward only, as normed2 and activated
  at::Tensor qkv;            // [N, (H + 2 Hkv) D], rotated in place when the family has RoPE
  at::Tensor qk_input;       // [N, (H + Hkv) D] q and k before their normalisation, of training
  at::Tensor qk_rstd;        // [N, H + Hkv] S; both undefined without qk_norm
  at::Tensor mixed;          // [N, A] attention's output, before its projection
  at::Tensor lse;            // [H, N] S
  at::Tensor attention_out;  // [N, C]
  at::Tensor residual2;      // [N, C]
  at::Tensor mean2, rstd2;
  at::Tensor normed2;    // [N, C]
  at::Tensor up;         // [N, F]; Llama: [N, 2F] gate | up
  at::Tensor activated;  // [N, F]
  at::Tensor ffn_out;    // [N, C]

  LowRank low_qkv, low_proj, low_up, low_down;

  // Of the backward, undefined in an inference plan. What the forward does not keep, since it costs
  // next to nothing to compute again from the residual stream and from `up`.
  at::Tensor normed1_again, normed2_again;  // [N, C]
  at::Tensor activated_again;               // [N, F]
  at::Tensor grad_ffn_out;        // [N, C] only with dropout: otherwise the residual's gradient
  at::Tensor grad_activated;      // [N, F]
  at::Tensor grad_normed2;        // [N, C]
  at::Tensor grad_attention_out;  // [N, C] only with dropout
  at::Tensor grad_mixed;          // [N, A]
  at::Tensor grad_qkv;            // as qkv
  at::Tensor grad_normed1;        // [N, C]
};

class Activations {
 public:
  enum class Purpose { training, inference };
  class Moments;

  // recompute: of training; an inference plan keeps nothing to begin with. loss_scratch_bytes: that
  // the logits of a chunk of rows stay within.
  Activations(const ModelConfig& config, const Training& adapters, at::ScalarType compute,
              Purpose purpose, bool dropout, Recompute recompute,
              std::shared_ptr<ArenaStorage> storage, int64_t loss_scratch_bytes);

  // Makes every tensor valid for a micro-batch. L = N: nothing is gathered.
  void bind(int64_t tokens, int64_t learned) { plan_.bind(tokens, learned); }
  const ArenaPlan& plan() const { return plan_; }
  void forget() { plan_.forget(); }  // the sizes seen so far
  // Of the arena, for a micro-batch of so many tokens; without touching any memory.
  uint64_t planned_bytes(int64_t tokens) { return plan_.plan(tokens); }

  // What no buffer needs from the backward of this layer on; see ArenaPlan::give_back().
  uint64_t finished_bytes(size_t layer) const { return plan_.finished_bytes(before_[layer]); }
  uint64_t give_back(size_t layer, uint64_t most) { return plan_.give_back(before_[layer], most); }

  // Whether a layer's forward is run again before its backward. The last layer's never is: its
  // backward follows at once.
  bool recomputes(size_t layer) const {
    return recompute_ != Recompute::none && layer + 1 < layers.size();
  }

  std::vector<LayerActivations> layers;
  // The same layers as their backward sees them, in training: of a layer that is recomputed, the
  // tensors computed again, which stand elsewhere; all others are those of `layers`.
  std::vector<LayerActivations> backward_layers;
  at::Tensor top_mixed;       // [L, A] the learned rows of the last layer's mixed, when L < N
  at::Tensor top_residual;    // [L, C] and of its residual1
  at::Tensor final_residual;  // [L, C]
  at::Tensor final_mean, final_rstd;
  at::Tensor final_normed;       // [L, C]; in training replaced by its gradient
  at::Tensor loss_scratch;       // [bytes]
  at::Tensor grad_top_mixed;     // [L, A]
  at::Tensor grad_top_residual;  // [L, C]
  at::Tensor grad_residual;      // [N, C] flows back along the residual stream

 private:
  void plan_top(const ModelConfig& config, at::ScalarType compute, const Moments& moments,
                bool training, int64_t loss_scratch_bytes);

  Recompute recompute_;
  ArenaPlan plan_;
  std::vector<int> before_;  // of each layer: the moment before its backward begins
};

}  // namespace train_sft
