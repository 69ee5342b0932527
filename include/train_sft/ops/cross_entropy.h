// The output layer and its cross-entropy in one op, over learned positions only and in chunks of
// rows, so that logits never exist whole.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <span>

#include "train_sft/ops/device_state.h"

namespace train_sft::ops {

struct CrossEntropySums {
  double loss = 0;      // Σ weight × −log p(target)
  double weight = 0;    // Σ weight
  int64_t tokens = 0;   // learned targets
  int64_t correct = 0;  // of which the target was the arg max
};

// What the logits of a chunk of rows stay within on the CPU: some hundred rows of a large
// vocabulary, so that reading the weight and its gradient once a chunk costs little; far from whole
// logits. 4,096 rows of GPT-2's vocabulary are just five chunks.
inline constexpr int64_t kLossScratchBytes = int64_t{160} << 20;

// Bytes of scratch for chunks of `chunk` rows; hidden [·, C] of `dtype`, a vocabulary of V.
int64_t linear_cross_entropy_scratch_bytes(at::ScalarType dtype, int64_t chunk, int64_t C,
                                           int64_t V);

// hidden [N, C] and weight [V, C] of dtype T. targets [N]; learned [L] ascending rows of hidden;
// weights [L], empty: all 1. scratch: a 1-D byte tensor, 64-byte aligned; its size sets the chunk
// (as many rows as fit, at least one).
//
// Gradients are of loss (the weighted sum): grad_hidden [N, C] of T is overwritten, rows that are
// not learned with zeros; it may alias hidden. grad_weight [V, C] (float, double when T is) is
// added to. Either may be undefined. Both undefined: forward only.
//
// On a device all rows of hidden are learned, each has a target and a weight, and what is returned
// here is added to *sums there; rows of weight 0 are padding, counted nowhere.
CrossEntropySums linear_cross_entropy(const at::Tensor& grad_hidden, const at::Tensor& grad_weight,
                                      const at::Tensor& hidden, const at::Tensor& weight,
                                      std::span<const int32_t> targets,
                                      std::span<const int32_t> learned,
                                      std::span<const float> weights, const at::Tensor& scratch,
                                      DeviceSums* sums = nullptr);

}  // namespace train_sft::ops
