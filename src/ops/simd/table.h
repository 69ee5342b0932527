// The fast kernels of one instruction set as a table of functions on raw pointers, with the meaning
// of the ops of include/train_sft/ops. bfloat16 is uint16_t here: kernel files include no library
// header (see vec.h).
#pragma once

#include <cstdint>

namespace train_sft::ops::simd {

struct GemmShape {
  int64_t M, N, K;
};

template <typename T>
struct GemmOperand {
  const T* data;
  int64_t stride;
  bool transposed;
};

// mean, bias and grad_bias are null for RMS norm; delta and gradients may be.
template <typename T>
struct NormForward {
  T* normed;
  T* residual_out;
  float* mean;
  float* rstd;
  const T* residual;
  const T* delta;
  const T* weight;
  const T* bias;
  int64_t N, C;
  float eps;
};

template <typename T>
struct NormBackward {
  T* grad_input;
  float* grad_weight;
  float* grad_bias;
  const T* grad_normed;
  const T* input;
  const float* mean;
  const float* rstd;
  const T* weight;
  int64_t N, C;
  bool accumulate;
};

// The forward: x in place; input and rstd null: not kept. The backward: x is the gradient.
template <typename T>
struct QkNorm {
  T* x;
  T* input;
  float* rstd;
  float* grad_q_weight;  // null: frozen
  float* grad_k_weight;
  const T* q_weight;
  const T* k_weight;
  int64_t N, H, Hkv, D, width;
  float eps;
};

// rest = 1 - beta, keep = 1 - lr wd, step_size = lr / c1, inverse_root = 1 / sqrt(c2)
struct AdamWConstants {
  float beta1, rest1, beta2, rest2, eps, grad_scale, keep, step_size, inverse_root;
};

template <typename T>
struct AdamW {
  float* master;
  T* compute;
  const float* grad;
  float* exp_avg;
  float* exp_avg_sq;
  int64_t count;
  AdamWConstants constants;
};

// −log p(target) = log(sum) + maximum − target_logit
struct RowLoss {
  float maximum, target_logit, sum;
  bool correct;
};

struct AttentionSize {
  int64_t H, Hkv, D, N;
  const int32_t* cu_seqlens;
  int64_t documents;
};

// T: float or uint16_t (bfloat16).
template <typename T>
struct Kernels {
  // out [M, N] = a [M, K] b [K, N] (+ bias [N]) (+ out when accumulate)
  void (*gemm)(T* out, int64_t stride, GemmShape shape, GemmOperand<T> a, GemmOperand<T> b,
               const T* bias, bool accumulate);
  void (*gemm_to_float)(float* out, int64_t stride, GemmShape shape, GemmOperand<T> a,
                        GemmOperand<T> b, const T* bias, bool accumulate);

  void (*layer_norm_forward)(const NormForward<T>& f);
  void (*layer_norm_backward)(const NormBackward<T>& b);
  void (*rms_norm_forward)(const NormForward<T>& f);
  void (*rms_norm_backward)(const NormBackward<T>& b);
  void (*qk_norm_forward)(const QkNorm<T>& q);
  void (*qk_norm_backward)(const QkNorm<T>& q);

  void (*gelu_forward)(T* out, const T* input, int64_t count);
  void (*gelu_backward)(T* grad_input, const T* grad_out, const T* input, int64_t count);
  void (*swiglu_forward)(T* out, const T* gate_up, int64_t N, int64_t F);
  void (*swiglu_backward)(T* grad_gate_up, const T* grad_out, const T* gate_up, int64_t N,
                          int64_t F);
  void (*dropout)(T* out, const T* input, const uint64_t* row_keys, uint32_t site, double p,
                  int64_t N, int64_t C);
  // The first `heads` heads of rows of `width`; direction 1 or -1.
  void (*rope)(T* qkv, const float* cosines, const float* sines, const int32_t* positions,
               int64_t N, int64_t heads, int64_t D, int64_t width, float direction);
  void (*embedding_forward)(T* out, const T* table, const T* position_table, const int32_t* tokens,
                            const int32_t* positions, int64_t N, int64_t C);
  // to[rows[n]] += grad[n]; rows null: all to one row.
  void (*add_to_rows)(float* to, const int32_t* rows, const T* grad, int64_t N, int64_t C);

  // With gradients: of T, each over the beginning of its row of logits.
  void (*softmax_loss)(float* logits, const int32_t* targets, const float* weights, RowLoss* losses,
                       int64_t rows, int64_t V, bool gradients);
  void (*adamw)(const AdamW<T>& a);

  void (*attention_forward)(T* out, float* lse, const T* qkv, const AttentionSize& size);
  void (*attention_backward)(T* grad_qkv, const T* grad_out, const T* out, const float* lse,
                             const T* qkv, const AttentionSize& size);
  void (*attention_decode)(T* out, const T* q, int64_t q_stride, const T* k, const T* v, int64_t M,
                           int64_t length, const AttentionSize& size);
};

// Of base/rng.h's CounterRng.
struct RandomKey {
  uint64_t seed, stream;
};

struct Table {
  Kernels<float> f32;
  Kernels<uint16_t> bf16;
  void (*block_sums_of_squares)(double* sums, const float* x, int64_t count, int64_t block);
  // out[i] = deviation × CounterRng::normal(i)
  void (*normal)(float* out, int64_t count, double deviation, RandomKey key);
};

}  // namespace train_sft::ops::simd
