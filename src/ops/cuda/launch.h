// The kernels of a CUDA device, as functions that queue them on a stream: raw device pointers and
// sizes, no torch. Semantics are those of the CPU op of the same name. None allocates or waits, so
// all may be captured in a graph. Bits repeat for the same sizes.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

#include "train_sft/ops/device_state.h"

namespace train_sft::ops::cuda {

enum class Type { f32, bf16 };

// Device memory that ops use one after another on the stream.
struct Workspace {
  void* data = nullptr;
  int64_t bytes = 0;
};

// ---- norms. residual_out and delta null: none. mean null: RMSNorm.
struct NormForward {
  void *normed, *residual_out;
  float *mean, *rstd;
  const void *residual, *delta, *weight, *bias;
  int64_t rows, columns;
  float eps;
};
void norm_forward(Type type, const NormForward& norm, cudaStream_t stream);

struct NormBackward {
  void* grad_input;
  float *grad_weight, *grad_bias;  // null: frozen
  const void *grad_normed, *input;
  const float *mean, *rstd;
  const void* weight;
  int64_t rows, columns;
  bool accumulate;
};
constexpr int64_t kLargestNorm = 8192, kLargestOddNorm = 4096;  // columns; not multiples of 8
void norm_backward(Type type, const NormBackward& norm, Workspace workspace, cudaStream_t stream);

struct QkNorm {
  void* qkv;  // the gradient in the backward
  void* input;
  float* rstd;
  float *grad_q_weight, *grad_k_weight;
  const void *q_weight, *k_weight;
  int64_t rows, heads, kv_heads, head_dim, width;
  float eps;
};
constexpr int64_t kLargestHead = 256;
void qk_norm_forward(Type type, const QkNorm& norm, cudaStream_t stream);
void qk_norm_backward(Type type, const QkNorm& norm, Workspace workspace, cudaStream_t stream);

// ---- elementwise
void gelu_forward(Type type, void* out, const void* input, int64_t count, cudaStream_t stream);
void gelu_backward(Type type, void* grad_input, const void* grad_out, const void* input,
                   int64_t count, cudaStream_t stream);
void swiglu_forward(Type type, void* out, const void* gate_up, int64_t rows, int64_t columns,
                    cudaStream_t stream);
void swiglu_backward(Type type, void* grad_gate_up, const void* grad_out, const void* gate_up,
                     int64_t rows, int64_t columns, cudaStream_t stream);
void dropout(Type type, void* out, const void* input, const uint64_t* row_keys, uint32_t site,
             double p, int64_t rows, int64_t columns, cudaStream_t stream);
struct Rope {
  void* qkv;
  const float *cosines, *sines;
  const int32_t* positions;
  int64_t rows, heads, head_dim, width;  // heads: of queries and keys
  bool backward;
};
void rope(Type type, const Rope& rope, cudaStream_t stream);

// ---- rows
void gather_rows(void* out, const void* in, const int32_t* rows, int64_t count, int64_t row_bytes,
                 cudaStream_t stream);
void scatter_rows(void* out, const void* in, const int32_t* rows, int64_t count, int64_t all,
                  int64_t row_bytes, cudaStream_t stream);
void embedding_forward(Type type, void* out, const void* table, const void* position_table,
                       const int32_t* tokens, const int32_t* positions, int64_t rows,
                       int64_t columns, cudaStream_t stream);
void embedding_backward(Type type, float* grad_table, const void* grad_out, const int32_t* indices,
                        const int32_t* order, int64_t rows, int64_t columns, Workspace workspace,
                        cudaStream_t stream);
// sums [columns] += the column sums of x.
void add_column_sums(Type type, float* sums, const void* x, int64_t rows, int64_t columns,
                     Workspace workspace, cudaStream_t stream);
// sums [columns] += those of partial [parts, columns], added in order.
void add_partials(float* sums, const float* partial, int64_t parts, int64_t columns,
                  cudaStream_t stream);

// ---- loss. logits [rows, stride] of the type; their gradients take their place when asked.
struct SoftmaxLoss {
  void* logits;
  const int32_t* targets;
  const float* weights;
  int64_t rows, vocabulary, stride;
  bool gradients;
};
int64_t softmax_loss_workspace(int64_t rows);
void softmax_loss(Type type, DeviceSums* sums, const SoftmaxLoss& loss, Workspace workspace,
                  cudaStream_t stream);

// ---- attention without tensor cores: for float, and heads that flash attention does not take
struct PlainAttention {
  void* out;
  float* lse;
  const void* qkv;
  void* grad_qkv;
  const void* grad_out;
  const int32_t* cu_seqlens;
  int64_t documents, rows, heads, kv_heads, head_dim;
};
void attention_forward(Type type, const PlainAttention& attention, cudaStream_t stream);
int64_t attention_workspace(const PlainAttention& attention);
void attention_backward(Type type, const PlainAttention& attention, Workspace workspace,
                        cudaStream_t stream);
// grad_qkv = dq | dk | dv, each [rows, heads, head_dim].
void join_heads(Type type, void* grad_qkv, const void* dq, const void* dk, const void* dv,
                int64_t rows, int64_t q_width, int64_t kv_width, cudaStream_t stream);

// ---- update
void sum_of_squares(double* sum, const float* x, int64_t count, Workspace workspace,
                    cudaStream_t stream);
void prepare_update(DeviceUpdate* update, DeviceSums* sums, const UpdateSettings& settings,
                    cudaStream_t stream);
struct AdamW {
  float* master;
  void* compute;  // null: none
  const float* grad;
  float *exp_avg, *exp_avg_sq;
  int64_t count;
  const DeviceUpdate* update;
  UpdateSettings settings;
  double weight_decay;
  float* amax;  // raised to the largest magnitude of what `compute` gets; null: not wanted
};
void adamw(Type type, const AdamW& step, cudaStream_t stream);

// ---- Muon. Columns [first_column, first_column + columns) of a parameter whose rows are `stride`
// elements; x [rows, columns] of the type.
struct MuonMatrix {
  int64_t rows, columns, stride, first_column;
};
struct MuonMoments {
  float* momentum;
  const float* grad;
  double* squares;
  MuonMatrix matrix;
  double mu;
  const DeviceUpdate* update;
};
void muon_momentum(const MuonMoments& moments, Workspace workspace, cudaStream_t stream);
void muon_unit(Type type, void* x, const MuonMoments& moments, cudaStream_t stream);
struct MuonResult {
  float* master;
  void* compute;  // null: none
  const void* x;
  MuonMatrix matrix;
  double size, weight_decay;
  const DeviceUpdate* update;
};
void muon_apply(Type type, const MuonResult& result, cudaStream_t stream);
// out [n, n] = scale · in + shift · I.
void scale_shift(Type type, void* out, const void* in, int64_t n, float scale, float shift,
                 cudaStream_t stream);

// ---- 8 bits
enum class Fp8 { e4m3, e5m2 };
struct Quantize {
  uint8_t *values, *transposed;  // null: not wanted
  float* amax;                   // null: not wanted
  const void* input;
  const float* scale;
  int64_t rows, columns;
};
void quantize(Type type, Fp8 format, const Quantize& q, cudaStream_t stream);
void amax(Type type, float* amax, const void* input, int64_t count, cudaStream_t stream);
void update_scales(float* history, float* amax, float* scale, float* scale_inverse,
                   const float* largest, int64_t tensors, int64_t steps, double margin,
                   cudaStream_t stream);

}  // namespace train_sft::ops::cuda
