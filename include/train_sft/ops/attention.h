// Causal attention over documents of variable length, with grouped queries; no N×N matrix is built.
// The forward keeps the log-sum-exp of each row, from which the backward recomputes probabilities
// (Dao et al. 2022).
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <span>

namespace train_sft::ops {

struct AttentionShape {
  int64_t n_head = 0;     // H
  int64_t n_kv_head = 0;  // Hkv, divides H; query head h reads key head h / (H / Hkv)
  int64_t head_dim = 0;   // D
  int64_t qkv_width() const { return (n_head + 2 * n_kv_head) * head_dim; }
  int64_t out_width() const { return n_head * head_dim; }
};

// qkv [N, (H + 2 Hkv) D]: a token's query heads, then key heads, then value heads.
// out [N, H D] of the same dtype T; lse [H, N] float (double when T is), natural logarithm.
// cu_seqlens [documents + 1] begins with 0 and ends with N; documents may be empty. Scores are
// scaled by 1/sqrt(D). max_seqlen: a bound of the documents' lengths, for devices.
void attention_forward(const at::Tensor& out, const at::Tensor& lse, const at::Tensor& qkv,
                       std::span<const int32_t> cu_seqlens, const AttentionShape& shape,
                       int64_t max_seqlen = 0);

// Writes grad_qkv [N, (H + 2 Hkv) D]; must not alias qkv. Bits repeat for a thread count.
void attention_backward(const at::Tensor& grad_qkv, const at::Tensor& grad_out,
                        const at::Tensor& out, const at::Tensor& lse, const at::Tensor& qkv,
                        std::span<const int32_t> cu_seqlens, const AttentionShape& shape,
                        int64_t max_seqlen = 0);

// Decoding: the M last tokens of a sequence of `length` attend to its cached keys and values, each
// to those up to itself. out [M, H D]; q [M, H D], rows may be strided (the front of a fused qkv);
// k_cache and v_cache [≥ length, Hkv, D].
void attention_decode(const at::Tensor& out, const at::Tensor& q, const at::Tensor& k_cache,
                      const at::Tensor& v_cache, int64_t length, const AttentionShape& shape);

}  // namespace train_sft::ops
