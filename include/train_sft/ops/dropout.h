// Dropout whose mask is a pure function of (seed, step, example id, position, site, channel): the
// same in any dtype, on any kernels, however rows are cut into micro-batches. Nothing is stored:
// the backward computes the mask again.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <span>

namespace train_sft::ops {

// keys[n] = hash(seed, step, example id of n's document, positions[n]); once a micro-batch.
void dropout_row_keys(std::span<uint64_t> keys, uint64_t seed, uint64_t step,
                      std::span<const int32_t> cu_seqlens, std::span<const uint64_t> example_ids,
                      std::span<const int32_t> positions);

// out[n, c] = keep(keys[n], site, c) ? input[n, c] / (1 - p) : 0, with 0 ≤ p < 1. [N, C]; out may
// alias input. Also the backward: grad_input = dropout(grad_out). `site` numbers the places of the
// model that drop out (embedding, layer 0 attention, layer 0 feed-forward, …).
void dropout(const at::Tensor& out, const at::Tensor& input, std::span<const uint64_t> row_keys,
             uint32_t site, double p);

// The same mask as factors: mask[n, c] is 0 or 1 / (1 - p).
void dropout_mask(const at::Tensor& mask, std::span<const uint64_t> row_keys, uint32_t site,
                  double p);

}  // namespace train_sft::ops
