// The seam between the program and the kernels of a device. Ops look at the device of the tensors
// they get: on the CPU they compute here, elsewhere they call this table, which a plugin fills
// (libtrain_sft_cuda.so) or, in tests, a device made of host memory (tests/support/fake_device.h).
//
// For every entry
// - Work is queued on the device's one stream, in order; no entry waits for it unless it says so.
// - What is called in a step (all of *Ops*) can be captured in a graph: no allocation, no wait,
// nothing
//   of the host read later. Numbers passed by value are fixed in a graph; what varies from replay
//   to replay lies in device memory. Scratch is allocated by the first call of a shape, which is
//   never captured.
// - Tensors are contiguous unless it says otherwise; dtype T is bfloat16 or float; matrices are
//   [rows, columns], row-major. Raw pointers point into device memory and stay valid.
// - Bits repeat for the same inputs and shapes, unless deterministic is switched off.
// - Errors are exceptions: c10::OutOfMemoryError for memory, c10::Error for all else.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>

#include "train_sft/ops/attention.h"
#include "train_sft/ops/device_state.h"
#include "train_sft/ops/fp8.h"
#include "train_sft/ops/linear.h"
#include "train_sft/ops/muon.h"

namespace train_sft::ops {

// Raised with any change of this file or of device_state.h: plugin and program must agree.
inline constexpr uint32_t kDeviceInterface = 4;

// Documents of a flat batch. Several may be empty (the last, to reach a number of documents that
// does not vary): then limits repeat.
struct DeviceDocuments {
  const int32_t* cu_seqlens = nullptr;  // [count + 1]
  int64_t count = 0;
  int64_t max_seqlen = 0;  // no document is longer; a bound, not the maximum itself
};

// An 8-bit operand: uint8 [rows, columns] of value × scale, rounded as ops/fp8.h has it.
struct Fp8Operand {
  at::Tensor values;         // uint8 [rows, columns]
  at::Tensor scale_inverse;  // float [1]: value = stored × scale_inverse
  Fp8Format format = Fp8Format::e4m3;
};

struct DeviceMemory {
  uint64_t free = 0, total = 0;     // of the device
  uint64_t reserved = 0, peak = 0;  // by this process's allocator
};

struct DeviceTable {
  // ---- Device. None of these is called in a capture, but graph_end and graph_abort.
  void (*memory)(DeviceMemory* out) = nullptr;
  void (*synchronize)() = nullptr;  // waits for all that is queued; reports its errors
  // Queued behind what is queued. The host's bytes are taken (into pinned memory of the plugin's)
  // before it returns. May not be captured: it runs before a replay.
  void (*upload)(void* device, const void* host, uint64_t bytes) = nullptr;
  // Queues a copy of a few bytes (≤ 4,096) to pinned memory and returns its ticket; at most 64 are
  // outstanding. download_end waits for that copy alone, and frees the ticket.
  uint64_t (*download_begin)(const void* device, uint64_t bytes) = nullptr;
  void (*download_end)(uint64_t ticket, void* host, uint64_t bytes) = nullptr;
  // Graphs. After graph_begin calls of Ops are recorded, not run. graph_end returns the executable
  // graph; graph_abort leaves a capture that failed, with the stream usable. A graph may be
  // destroyed while it runs.
  void (*graph_begin)() = nullptr;
  void* (*graph_end)() = nullptr;
  void (*graph_abort)() = nullptr;
  void (*graph_replay)(void* graph) = nullptr;
  void (*graph_destroy)(void* graph) = nullptr;
  // Deterministic kernels (the default) or the faster ones where they differ: attention's backward.
  void (*set_deterministic)(bool on) = nullptr;

  // ---- Ops. Rows and layout as in the headers of the same names.
  void (*zero)(const at::Tensor& tensor) = nullptr;
  // out[i] = in[rows[i]], i < count; [·, C].
  void (*gather_rows)(const at::Tensor& out, const at::Tensor& in, const int32_t* rows,
                      int64_t count) = nullptr;
  // out[rows[i]] = in[i], zeros in the other rows; rows ascend, each once.
  void (*scatter_rows)(const at::Tensor& out, const at::Tensor& in, const int32_t* rows,
                       int64_t count) = nullptr;

  // position_table undefined: none.
  void (*embedding_forward)(const at::Tensor& out, const at::Tensor& table,
                            const at::Tensor& position_table, const int32_t* tokens,
                            const int32_t* positions) = nullptr;
  // grad_table [V, C] float += the rows of grad_out [N, C] at indices[N]. order [N]: the numbers of
  // the rows, sorted by their index and then by themselves, so that equal indices lie together and
  // each table row has one writer. Once for tokens, once for positions.
  void (*embedding_backward)(const at::Tensor& grad_table, const at::Tensor& grad_out,
                             const int32_t* indices, const int32_t* order) = nullptr;

  void (*layer_norm_forward)(const at::Tensor& normed, const at::Tensor& residual_out,
                             const at::Tensor& mean, const at::Tensor& rstd,
                             const at::Tensor& residual, const at::Tensor& delta,
                             const at::Tensor& weight, const at::Tensor& bias,
                             double eps) = nullptr;
  void (*layer_norm_backward)(const at::Tensor& grad_input, const at::Tensor& grad_weight,
                              const at::Tensor& grad_bias, const at::Tensor& grad_normed,
                              const at::Tensor& input, const at::Tensor& mean,
                              const at::Tensor& rstd, const at::Tensor& weight,
                              bool accumulate) = nullptr;
  void (*rms_norm_forward)(const at::Tensor& normed, const at::Tensor& residual_out,
                           const at::Tensor& rstd, const at::Tensor& residual,
                           const at::Tensor& delta, const at::Tensor& weight, double eps) = nullptr;
  void (*rms_norm_backward)(const at::Tensor& grad_input, const at::Tensor& grad_weight,
                            const at::Tensor& grad_normed, const at::Tensor& input,
                            const at::Tensor& rstd, const at::Tensor& weight,
                            bool accumulate) = nullptr;
  void (*qk_norm_forward)(const at::Tensor& qkv, const at::Tensor& input, const at::Tensor& rstd,
                          const at::Tensor& q_weight, const at::Tensor& k_weight, double eps,
                          const AttentionShape& shape) = nullptr;
  void (*qk_norm_backward)(const at::Tensor& grad_qkv, const at::Tensor& grad_q_weight,
                           const at::Tensor& grad_k_weight, const at::Tensor& input,
                           const at::Tensor& rstd, const at::Tensor& q_weight,
                           const at::Tensor& k_weight, const AttentionShape& shape) = nullptr;
  // backward: turns the other way. cosines, sines [P, D/2] float.
  void (*rope)(const at::Tensor& qkv, const at::Tensor& cosines, const at::Tensor& sines,
               const int32_t* positions, const AttentionShape& shape, bool backward) = nullptr;

  void (*attention_forward)(const at::Tensor& out, const at::Tensor& lse, const at::Tensor& qkv,
                            const DeviceDocuments& documents,
                            const AttentionShape& shape) = nullptr;
  void (*attention_backward)(const at::Tensor& grad_qkv, const at::Tensor& grad_out,
                             const at::Tensor& out, const at::Tensor& lse, const at::Tensor& qkv,
                             const DeviceDocuments& documents,
                             const AttentionShape& shape) = nullptr;

  void (*gelu_forward)(const at::Tensor& out, const at::Tensor& input) = nullptr;
  void (*gelu_backward)(const at::Tensor& grad_input, const at::Tensor& grad_out,
                        const at::Tensor& input) = nullptr;
  void (*swiglu_forward)(const at::Tensor& out, const at::Tensor& gate_up) = nullptr;
  void (*swiglu_backward)(const at::Tensor& grad_gate_up, const at::Tensor& grad_out,
                          const at::Tensor& gate_up) = nullptr;
  // Masks of dropout.h: keys[N] come from the host. out may alias input.
  void (*dropout)(const at::Tensor& out, const at::Tensor& input, const uint64_t* row_keys,
                  uint32_t site, double p) = nullptr;

  // out [M, N] = (or +=, accumulate) alpha · op(a) · op(b), op transposing when asked; sums in
  // float. Rows may be strided (columns of a wider matrix). a and b have one dtype T; out T or
  // float. bias [N] of T, added to each row; undefined: none.
  void (*gemm)(const at::Tensor& out, const at::Tensor& a, bool transpose_a, const at::Tensor& b,
               bool transpose_b, double alpha, const at::Tensor& bias, bool accumulate) = nullptr;
  // grad_bias [out] float += the column sums of grad_out [N, out].
  void (*linear_backward_bias)(const at::Tensor& grad_bias, const at::Tensor& grad_out) = nullptr;

  // linear_cross_entropy() over the L rows of hidden [L, C], all of them learned: targets [L],
  // weights [L] float, 0 for padding. sums: loss, weight, tokens, correct are added to. Gradients
  // and scratch as there.
  void (*linear_cross_entropy)(DeviceSums* sums, const at::Tensor& grad_hidden,
                               const at::Tensor& grad_weight, const at::Tensor& hidden,
                               const at::Tensor& weight, const int32_t* targets,
                               const float* weights, const at::Tensor& scratch) = nullptr;

  // ---- 8-bit products (ops/fp8.h has the arithmetic). Null where the device has none.
  // values [rows, columns] and transposed [columns, rows] (either may be undefined) = input ×
  // scale[0] rounded to format, saturating. amax[0] = max(amax[0], |input|) in the same pass
  // (undefined: not wanted). input T.
  void (*fp8_quantize)(const at::Tensor& values, const at::Tensor& transposed,
                       const at::Tensor& amax, const at::Tensor& input, const at::Tensor& scale,
                       Fp8Format format) = nullptr;
  // amax[0] = max(amax[0], |input|): for current scaling.
  void (*fp8_amax)(const at::Tensor& amax, const at::Tensor& input) = nullptr;
  // For each of S tensors: history [S, H] moves on by one and takes amax[s]; amax = 0; scale[s] and
  // scale_inverse[s] for the next step from the largest of the history, as fp8.h has it. largest
  // [S]: the largest number of each tensor's format. H = 1: current scaling.
  void (*fp8_update_scales)(const at::Tensor& history, const at::Tensor& amax,
                            const at::Tensor& scale, const at::Tensor& scale_inverse,
                            const at::Tensor& largest, double margin) = nullptr;
  // out [M, N] = (or +=) a [M, K] · b [N, K]ᵀ: both operands have K last, as the hardware wants
  // them. out T or float; bias [N] of T or undefined. M, N, K are multiples of 16.
  void (*fp8_matmul)(const at::Tensor& out, const Fp8Operand& a, const Fp8Operand& b,
                     const at::Tensor& bias, bool accumulate) = nullptr;

  // ---- Update
  // sum[0] += Σ x² of a flat float tensor, in double.
  void (*sum_of_squares)(double* sum, const at::Tensor& flat) = nullptr;
  // Fills `update` from the step's sums, then zeroes the sums. Not finite, beyond its limits, or no
  // weight: skip = 1 and t stays. clip = min(1, grad_clip / (grad_norm + 1e-6)).
  void (*prepare_update)(DeviceUpdate* update, DeviceSums* sums,
                         const UpdateSettings& settings) = nullptr;
  // ops::adamw() with lr, scale and corrections from `update`; writes nothing when update->skip.
  // amax[0] = max(amax[0], |compute|) of what it writes there (undefined: not wanted).
  void (*adamw)(const at::Tensor& master, const at::Tensor& compute, const at::Tensor& grad,
                const at::Tensor& exp_avg, const at::Tensor& exp_avg_sq, const at::Tensor& amax,
                const DeviceUpdate* update, const UpdateSettings& settings,
                double weight_decay) = nullptr;

  // ---- Muon's passes over a matrix (ops/muon.h has the arithmetic, muon_on_device() the whole);
  // master, compute, grad and momentum: the parameter it is, or is columns of. With update->skip
  // nothing is written.
  // momentum = its next; squares[0] = Σ v² of what is to be orthogonal, v = g + μ (momentum − g).
  void (*muon_momentum)(const at::Tensor& momentum, double* squares, const at::Tensor& grad,
                        const MuonShape& shape, double mu, const DeviceUpdate* update) = nullptr;
  // x [R, C] of T = v / max(√squares[0], kMuonLeastNorm), of the momentum written before.
  void (*muon_unit)(const at::Tensor& x, const at::Tensor& momentum, const at::Tensor& grad,
                    const double* squares, const MuonShape& shape, double mu,
                    const DeviceUpdate* update) = nullptr;
  // out [n, n] of T = scale · in + shift · I.
  void (*scale_shift)(const at::Tensor& out, const at::Tensor& in, double scale,
                      double shift) = nullptr;
  // master = (1 − lr · weight_decay) master − lr · size · x; compute = master, rounded. x [R, C] of
  // compute's dtype, float without.
  void (*muon_apply)(const at::Tensor& master, const at::Tensor& compute, const at::Tensor& x,
                     const MuonShape& shape, double size, double weight_decay,
                     const DeviceUpdate* update) = nullptr;
};

// The table of a device's kind; of a tensor, null on the CPU. Throws InternalError where none is
// registered.
const DeviceTable* device_table(c10::DeviceType type);
inline const DeviceTable* device_table(const at::Tensor& tensor) {
  return tensor.device().is_cpu() ? nullptr : device_table(tensor.device().type());
}
// For plugins' loader and tests; null takes it away. The table must live on.
void register_device_table(c10::DeviceType type, const DeviceTable* table);

// What a plugin exports under the name kPluginEntry: `extern "C" const DevicePlugin* …()`. It is
// called before anything else, must not touch the driver, and the result lives as long as the
// plugin.
inline constexpr const char* kPluginEntry = "train_sft_device_plugin";
struct DevicePlugin {
  uint32_t interface_version = kDeviceInterface;  // first, so that any version can be read
  uint32_t table_bytes = sizeof(DeviceTable);
  const char* torch_version = nullptr;  // TORCH_VERSION it was compiled with
  // How many devices there are; 0 with the reason in why[≤ size]. Never throws.
  int (*device_count)(char* why, uint64_t size) = nullptr;
  // Chooses a device for the calling thread, makes its stream and libraries' workspaces, and
  // returns its table; null with the reason in why. Once a process.
  const DeviceTable* (*open)(int device, char* why, uint64_t size) = nullptr;
  // "NVIDIA H200", and what it can do. Valid after open().
  struct Properties {
    char name[128] = {};
    int major = 0, minor = 0;  // compute capability
    int processors = 0;
    uint64_t memory_bytes = 0;
    bool bf16 = false, fp8 = false;
  };
  void (*properties)(int device, Properties* out) = nullptr;
};

}  // namespace train_sft::ops
