// Attention by PyTorch's flash attention over documents of variable length (Dao 2023); what it does
// not take (float, odd heads) goes to our plain kernels.
#include <ATen/Context.h>
#include <ATen/ops/_flash_attention_backward.h>
#include <ATen/ops/_flash_attention_forward.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/from_blob.h>
#include <c10/cuda/CUDAException.h>

#include "ops/cuda/launch.h"
#include "ops/cuda/runtime.h"

namespace train_sft::ops::cuda {
namespace {

bool flash_takes(const at::Tensor& qkv, const AttentionShape& shape) {
  return qkv.scalar_type() == at::kBFloat16 && shape.head_dim % 8 == 0 && shape.head_dim <= 256;
}

struct Heads {
  at::Tensor q, k, v;
};

// Views of qkv [N, (H + 2 Hkv) D].
Heads heads_of(const at::Tensor& qkv, const AttentionShape& shape) {
  const int64_t rows = qkv.size(0), D = shape.head_dim;
  const auto cut = [&](int64_t first, int64_t count) {
    return qkv.narrow(1, first * D, count * D).view({rows, count, D});
  };
  return {cut(0, shape.n_head), cut(shape.n_head, shape.n_kv_head),
          cut(shape.n_head + shape.n_kv_head, shape.n_kv_head)};
}

// The device is given, so that nobody asks the driver for it during a capture.
at::Tensor limits_of(const DeviceDocuments& documents, const at::Tensor& like) {
  return at::for_blob(const_cast<int32_t*>(documents.cu_seqlens), {documents.count + 1})
      .options(like.options().dtype(at::kInt))
      .target_device(like.device())
      .make_tensor();
}

// PyTorch asks a switch of the process whether flash attention's backward must repeat its bits.
class DeterministicWhile {
 public:
  explicit DeterministicWhile(bool on)
      : before_(at::globalContext().deterministicAlgorithms()),
        warned_(at::globalContext().deterministicAlgorithmsWarnOnly()) {
    at::globalContext().setDeterministicAlgorithms(on, false);
  }
  ~DeterministicWhile() { at::globalContext().setDeterministicAlgorithms(before_, warned_); }
  DeterministicWhile(const DeterministicWhile&) = delete;
  DeterministicWhile& operator=(const DeterministicWhile&) = delete;

 private:
  bool before_, warned_;
};

void copy_to(const at::Tensor& to, const at::Tensor& from) {
  TORCH_CHECK(from.is_contiguous() && from.nbytes() == to.nbytes() &&
                  from.scalar_type() == to.scalar_type(),
              "flash attention returned ", from.sizes(), " where ", to.sizes(), " is expected");
  C10_CUDA_CHECK(cudaMemcpyAsync(to.data_ptr(), from.data_ptr(), to.nbytes(),
                                 cudaMemcpyDeviceToDevice, runtime().stream));
}

PlainAttention plain_of(const at::Tensor& out, const at::Tensor& lse, const at::Tensor& qkv,
                        const DeviceDocuments& documents, const AttentionShape& shape) {
  TORCH_CHECK(shape.head_dim <= kLargestHead, "head_dim ", shape.head_dim, ", at most ",
              kLargestHead);
  const int64_t rows = qkv.size(0);
  PlainAttention a{};
  a.out = data(out, qkv.scalar_type(), rows * shape.out_width());
  a.lse = floats(lse, rows * shape.n_head);
  a.qkv = data(qkv, qkv.scalar_type(), rows * shape.qkv_width());
  a.cu_seqlens = documents.cu_seqlens;
  a.documents = documents.count;
  a.rows = rows;
  a.heads = shape.n_head;
  a.kv_heads = shape.n_kv_head;
  a.head_dim = shape.head_dim;
  return a;
}

void forward(const at::Tensor& out, const at::Tensor& lse, const at::Tensor& qkv,
             const DeviceDocuments& documents, const AttentionShape& shape) {
  if (qkv.size(0) == 0) return;
  const PlainAttention a = plain_of(out, lse, qkv, documents, shape);
  if (!flash_takes(qkv, shape)) {
    attention_forward(type_of(qkv), a, runtime().stream);
    return check_launch();
  }
  const Heads h = heads_of(qkv, shape);
  const at::Tensor limits = limits_of(documents, qkv);
  const auto result = at::_flash_attention_forward(h.q, h.k, h.v, limits, limits,
                                                   documents.max_seqlen, documents.max_seqlen,
                                                   /*dropout_p=*/0.0, /*is_causal=*/true,
                                                   /*return_debug_mask=*/false);
  copy_to(out, std::get<0>(result));
  copy_to(lse, std::get<1>(result));
}

void backward(const at::Tensor& grad_qkv, const at::Tensor& grad_out, const at::Tensor& out,
              const at::Tensor& lse, const at::Tensor& qkv, const DeviceDocuments& documents,
              const AttentionShape& shape) {
  const int64_t rows = qkv.size(0);
  if (rows == 0) return;
  PlainAttention a = plain_of(out, lse, qkv, documents, shape);
  a.grad_qkv = data(grad_qkv, qkv.scalar_type(), rows * shape.qkv_width());
  a.grad_out = data(grad_out, qkv.scalar_type(), rows * shape.out_width());
  if (!flash_takes(qkv, shape)) {
    TORCH_CHECK(attention_workspace(a) <= runtime().workspace.bytes, rows, " rows of ",
                shape.n_head, " heads are too many at once");
    attention_backward(type_of(qkv), a, runtime().workspace, runtime().stream);
    return check_launch();
  }
  const Heads h = heads_of(qkv, shape);
  const at::Tensor limits = limits_of(documents, qkv);
  const auto by_heads = [&](const at::Tensor& x) {
    return x.view({rows, shape.n_head, shape.head_dim});
  };
  // The state of dropout's random numbers, which nothing reads without dropout.
  static const auto* random_state =
      new at::Tensor(at::empty({2}, qkv.options().dtype(at::kUInt64)));
  const DeterministicWhile deterministic(runtime().deterministic);
  const auto [dq, dk, dv] = at::_flash_attention_backward(
      by_heads(grad_out), h.q, h.k, h.v, by_heads(out), lse, limits, limits, documents.max_seqlen,
      documents.max_seqlen, /*dropout_p=*/0.0, /*is_causal=*/true, *random_state, *random_state);
  TORCH_CHECK(dq.is_contiguous() && dk.is_contiguous() && dv.is_contiguous(),
              "flash attention's gradients are not contiguous");
  join_heads(Type::bf16, a.grad_qkv, dq.data_ptr(), dk.data_ptr(), dv.data_ptr(), rows,
             shape.out_width(), shape.n_kv_head * shape.head_dim, runtime().stream);
  check_launch();
}

}  // namespace

void fill_attention(DeviceTable& table) {
  table.attention_forward = forward;
  table.attention_backward = backward;
}

}  // namespace train_sft::ops::cuda
