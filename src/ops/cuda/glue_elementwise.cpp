// The table's ops on rows and elements: shapes checked, pointers taken, kernels queued.
#include <c10/util/Exception.h>

#include "ops/cuda/launch.h"
#include "ops/cuda/runtime.h"

namespace train_sft::ops::cuda {
namespace {

struct Matrix {
  Type type;
  at::ScalarType scalar;
  int64_t rows, columns;

  int64_t numel() const { return rows * columns; }
  void* data(const at::Tensor& tensor) const { return cuda::data(tensor, scalar, numel()); }
};

Matrix matrix(const at::Tensor& tensor) {
  TORCH_CHECK(tensor.dim() == 2, tensor.dim(), " dimensions where 2 are expected");
  return {type_of(tensor), tensor.scalar_type(), tensor.size(0), tensor.size(1)};
}

void zero(const at::Tensor& tensor) {
  TORCH_CHECK(tensor.is_contiguous(), "tensor is not contiguous");
  cudaMemsetAsync(tensor.data_ptr(), 0, tensor.nbytes(), runtime().stream);
  check_launch();
}

int64_t row_bytes(const at::Tensor& few, const at::Tensor& all, int64_t count) {
  TORCH_CHECK(few.size(0) == count && few.size(1) == all.size(1) &&
                  few.scalar_type() == all.scalar_type() && few.is_contiguous() &&
                  all.is_contiguous(),
              count, " rows of ", all.size(0), " and ", few.size(0));
  return few.size(1) * static_cast<int64_t>(few.element_size());
}

void gather(const at::Tensor& out, const at::Tensor& in, const int32_t* rows, int64_t count) {
  gather_rows(out.data_ptr(), in.data_ptr(), rows, count, row_bytes(out, in, count),
              runtime().stream);
  check_launch();
}

void scatter(const at::Tensor& out, const at::Tensor& in, const int32_t* rows, int64_t count) {
  scatter_rows(out.data_ptr(), in.data_ptr(), rows, count, out.size(0), row_bytes(in, out, count),
               runtime().stream);
  check_launch();
}

void embed(const at::Tensor& out, const at::Tensor& table, const at::Tensor& position_table,
           const int32_t* tokens, const int32_t* positions) {
  const Matrix m = matrix(out);
  const void* position_rows =
      position_table.defined() ? data(position_table, m.scalar, position_table.size(0) * m.columns)
                               : nullptr;
  embedding_forward(m.type, m.data(out), data(table, m.scalar, table.size(0) * m.columns),
                    position_rows, tokens, positions, m.rows, m.columns, runtime().stream);
  check_launch();
}

void embed_backward(const at::Tensor& grad_table, const at::Tensor& grad_out,
                    const int32_t* indices, const int32_t* order) {
  const Matrix m = matrix(grad_out);
  embedding_backward(m.type, floats(grad_table, grad_table.size(0) * m.columns), m.data(grad_out),
                     indices, order, m.rows, m.columns, runtime().workspace, runtime().stream);
  check_launch();
}

// ---- norms

void check_columns(int64_t columns) {
  TORCH_CHECK(columns <= (columns % 8 == 0 ? kLargestNorm : kLargestOddNorm), "n_embd ", columns,
              " is more than norms on CUDA take: ", kLargestNorm, ", or ", kLargestOddNorm,
              " when it is no multiple of 8");
}

NormForward norm_forward_of(const Matrix& m, const at::Tensor& normed,
                            const at::Tensor& residual_out, const at::Tensor& rstd,
                            const at::Tensor& residual, const at::Tensor& delta,
                            const at::Tensor& weight, double eps) {
  NormForward n{};
  n.normed = m.data(normed);
  n.residual_out = delta.defined() ? m.data(residual_out) : nullptr;
  n.rstd = floats(rstd, m.rows);
  n.residual = m.data(residual);
  n.delta = data_or_null(delta, m.scalar, m.numel());
  n.weight = data(weight, m.scalar, m.columns);
  n.rows = m.rows;
  n.columns = m.columns;
  n.eps = static_cast<float>(eps);
  return n;
}

NormBackward norm_backward_of(const Matrix& m, const at::Tensor& grad_input,
                              const at::Tensor& grad_weight, const at::Tensor& grad_normed,
                              const at::Tensor& input, const at::Tensor& rstd,
                              const at::Tensor& weight, bool accumulate) {
  check_columns(m.columns);
  NormBackward n{};
  n.grad_input = m.data(grad_input);
  n.grad_weight = floats_or_null(grad_weight, m.columns);
  n.grad_normed = m.data(grad_normed);
  n.input = m.data(input);
  n.rstd = floats(rstd, m.rows);
  n.weight = data(weight, m.scalar, m.columns);
  n.rows = m.rows;
  n.columns = m.columns;
  n.accumulate = accumulate;
  return n;
}

void layer_norm_forward(const at::Tensor& normed, const at::Tensor& residual_out,
                        const at::Tensor& mean, const at::Tensor& rstd, const at::Tensor& residual,
                        const at::Tensor& delta, const at::Tensor& weight, const at::Tensor& bias,
                        double eps) {
  const Matrix m = matrix(normed);
  NormForward n = norm_forward_of(m, normed, residual_out, rstd, residual, delta, weight, eps);
  n.mean = floats(mean, m.rows);
  n.bias = data(bias, m.scalar, m.columns);
  norm_forward(m.type, n, runtime().stream);
  check_launch();
}

void rms_norm_forward(const at::Tensor& normed, const at::Tensor& residual_out,
                      const at::Tensor& rstd, const at::Tensor& residual, const at::Tensor& delta,
                      const at::Tensor& weight, double eps) {
  const Matrix m = matrix(normed);
  norm_forward(m.type, norm_forward_of(m, normed, residual_out, rstd, residual, delta, weight, eps),
               runtime().stream);
  check_launch();
}

void layer_norm_backward(const at::Tensor& grad_input, const at::Tensor& grad_weight,
                         const at::Tensor& grad_bias, const at::Tensor& grad_normed,
                         const at::Tensor& input, const at::Tensor& mean, const at::Tensor& rstd,
                         const at::Tensor& weight, bool accumulate) {
  const Matrix m = matrix(input);
  NormBackward n =
      norm_backward_of(m, grad_input, grad_weight, grad_normed, input, rstd, weight, accumulate);
  n.mean = floats(mean, m.rows);
  n.grad_bias = floats_or_null(grad_bias, m.columns);
  norm_backward(m.type, n, runtime().workspace, runtime().stream);
  check_launch();
}

void rms_norm_backward(const at::Tensor& grad_input, const at::Tensor& grad_weight,
                       const at::Tensor& grad_normed, const at::Tensor& input,
                       const at::Tensor& rstd, const at::Tensor& weight, bool accumulate) {
  const Matrix m = matrix(input);
  norm_backward(
      m.type,
      norm_backward_of(m, grad_input, grad_weight, grad_normed, input, rstd, weight, accumulate),
      runtime().workspace, runtime().stream);
  check_launch();
}

QkNorm qk_norm_of(const Matrix& m, const at::Tensor& qkv, const at::Tensor& input,
                  const at::Tensor& rstd, const at::Tensor& q_weight, const at::Tensor& k_weight,
                  const AttentionShape& shape) {
  TORCH_CHECK(shape.head_dim <= kLargestHead, "head_dim ", shape.head_dim, ", at most ",
              kLargestHead);
  const int64_t heads = shape.n_head + shape.n_kv_head;
  QkNorm n{};
  n.qkv = data(qkv, m.scalar, m.rows * shape.qkv_width());
  n.input = data_or_null(input, m.scalar, m.rows * heads * shape.head_dim);
  n.rstd = floats_or_null(rstd, m.rows * heads);
  n.q_weight = data(q_weight, m.scalar, shape.head_dim);
  n.k_weight = data(k_weight, m.scalar, shape.head_dim);
  n.rows = m.rows;
  n.heads = shape.n_head;
  n.kv_heads = shape.n_kv_head;
  n.head_dim = shape.head_dim;
  n.width = shape.qkv_width();
  return n;
}

void norm_heads(const at::Tensor& qkv, const at::Tensor& input, const at::Tensor& rstd,
                const at::Tensor& q_weight, const at::Tensor& k_weight, double eps,
                const AttentionShape& shape) {
  const Matrix m = matrix(qkv);
  QkNorm n = qk_norm_of(m, qkv, input, rstd, q_weight, k_weight, shape);
  n.eps = static_cast<float>(eps);
  qk_norm_forward(m.type, n, runtime().stream);
  check_launch();
}

void norm_heads_backward(const at::Tensor& grad_qkv, const at::Tensor& grad_q_weight,
                         const at::Tensor& grad_k_weight, const at::Tensor& input,
                         const at::Tensor& rstd, const at::Tensor& q_weight,
                         const at::Tensor& k_weight, const AttentionShape& shape) {
  const Matrix m = matrix(grad_qkv);
  QkNorm n = qk_norm_of(m, grad_qkv, input, rstd, q_weight, k_weight, shape);
  TORCH_CHECK(n.input != nullptr && n.rstd != nullptr, "the heads' inputs were not kept");
  n.grad_q_weight = floats_or_null(grad_q_weight, shape.head_dim);
  n.grad_k_weight = floats_or_null(grad_k_weight, shape.head_dim);
  qk_norm_backward(m.type, n, runtime().workspace, runtime().stream);
  check_launch();
}

// ---- elements

void rotate(const at::Tensor& qkv, const at::Tensor& cosines, const at::Tensor& sines,
            const int32_t* positions, const AttentionShape& shape, bool backward) {
  const Matrix m = matrix(qkv);
  TORCH_CHECK(shape.head_dim % 2 == 0, "head_dim ", shape.head_dim, " is odd");
  const int64_t angles = cosines.size(0) * (shape.head_dim / 2);
  rope(m.type,
       {data(qkv, m.scalar, m.rows * shape.qkv_width()), floats(cosines, angles),
        floats(sines, angles), positions, m.rows, shape.n_head + shape.n_kv_head, shape.head_dim,
        shape.qkv_width(), backward},
       runtime().stream);
  check_launch();
}

void gelu(const at::Tensor& out, const at::Tensor& input) {
  const int64_t n = input.numel();
  const at::ScalarType scalar = input.scalar_type();
  gelu_forward(type_of(input), data(out, scalar, n), data(input, scalar, n), n, runtime().stream);
  check_launch();
}

void gelu_gradient(const at::Tensor& grad_input, const at::Tensor& grad_out,
                   const at::Tensor& input) {
  const int64_t n = input.numel();
  const at::ScalarType scalar = input.scalar_type();
  gelu_backward(type_of(input), data(grad_input, scalar, n), data(grad_out, scalar, n),
                data(input, scalar, n), n, runtime().stream);
  check_launch();
}

void swiglu(const at::Tensor& out, const at::Tensor& gate_up) {
  const Matrix m = matrix(out);
  swiglu_forward(m.type, m.data(out), data(gate_up, m.scalar, 2 * m.numel()), m.rows, m.columns,
                 runtime().stream);
  check_launch();
}

void swiglu_gradient(const at::Tensor& grad_gate_up, const at::Tensor& grad_out,
                     const at::Tensor& gate_up) {
  const Matrix m = matrix(grad_out);
  swiglu_backward(m.type, data(grad_gate_up, m.scalar, 2 * m.numel()), m.data(grad_out),
                  data(gate_up, m.scalar, 2 * m.numel()), m.rows, m.columns, runtime().stream);
  check_launch();
}

void drop(const at::Tensor& out, const at::Tensor& input, const uint64_t* row_keys, uint32_t site,
          double p) {
  const Matrix m = matrix(out);
  TORCH_CHECK(p >= 0 && p < 1, "dropout probability ", p);
  dropout(m.type, m.data(out), m.data(input), row_keys, site, p, m.rows, m.columns,
          runtime().stream);
  check_launch();
}

}  // namespace

void fill_elementwise(DeviceTable& table) {
  table.zero = zero;
  table.gather_rows = gather;
  table.scatter_rows = scatter;
  table.embedding_forward = embed;
  table.embedding_backward = embed_backward;
  table.layer_norm_forward = layer_norm_forward;
  table.layer_norm_backward = layer_norm_backward;
  table.rms_norm_forward = rms_norm_forward;
  table.rms_norm_backward = rms_norm_backward;
  table.qk_norm_forward = norm_heads;
  table.qk_norm_backward = norm_heads_backward;
  table.rope = rotate;
  table.gelu_forward = gelu;
  table.gelu_backward = gelu_gradient;
  table.swiglu_forward = swiglu;
  table.swiglu_backward = swiglu_gradient;
  table.dropout = drop;
}

}  // namespace train_sft::ops::cuda
