// The table's products: linear layers, the output layer with its loss, and those of 8 bits.
#include <c10/util/Exception.h>

#include <algorithm>

#include "ops/cuda/launch.h"
#include "ops/cuda/matmul.h"
#include "ops/cuda/runtime.h"

namespace train_sft::ops::cuda {
namespace {

cudaDataType_t cuda_type(at::ScalarType type) {
  if (type == at::kBFloat16) return CUDA_R_16BF;
  TORCH_CHECK(type == at::kFloat, "CUDA computes in bfloat16 or float32, not ", type);
  return CUDA_R_32F;
}

// Rows may be strided. A single row, or column, has any stride.
int64_t stride_of(const at::Tensor& matrix) {
  TORCH_CHECK(is_here(matrix) && matrix.dim() == 2, "a matrix on CUDA is expected");
  TORCH_CHECK(matrix.size(1) <= 1 || matrix.stride(1) == 1, "columns of a matrix are strided");
  return matrix.size(0) <= 1 ? matrix.size(1) : matrix.stride(0);
}

MatmulOperand operand(const at::Tensor& matrix, bool transposed) {
  return {matrix.data_ptr(), cuda_type(matrix.scalar_type()), stride_of(matrix), transposed,
          nullptr};
}

void set_bias(Matmul& p, const at::Tensor& bias) {
  if (!bias.defined()) return;
  TORCH_CHECK(!p.accumulate && bias.numel() == p.N && bias.is_contiguous(), "a bias of ",
              bias.numel(), " for ", p.N, " columns");
  p.bias = bias.data_ptr();
  p.bias_type = cuda_type(bias.scalar_type());
}

Matmul into(const at::Tensor& out) {
  Matmul p;
  p.out = out.data_ptr();
  p.out_type = cuda_type(out.scalar_type());
  p.stride = stride_of(out);
  p.M = out.size(0);
  p.N = out.size(1);
  return p;
}

void gemm(const at::Tensor& out, const at::Tensor& a, bool transpose_a, const at::Tensor& b,
          bool transpose_b, double alpha, const at::Tensor& bias, bool accumulate) {
  Matmul p = into(out);
  p.K = a.size(transpose_a ? 0 : 1);
  TORCH_CHECK(a.size(transpose_a ? 1 : 0) == p.M && b.size(transpose_b ? 0 : 1) == p.N &&
                  b.size(transpose_b ? 1 : 0) == p.K,
              "products of ", a.sizes(), " and ", b.sizes(), " into ", out.sizes());
  TORCH_CHECK(a.scalar_type() == b.scalar_type(), "a product of ", a.scalar_type(), " and ",
              b.scalar_type());
  p.a = operand(a, transpose_a);
  p.b = operand(b, transpose_b);
  p.alpha = static_cast<float>(alpha);
  p.accumulate = accumulate;
  set_bias(p, bias);
  matmul(p);
}

void bias_gradient(const at::Tensor& grad_bias, const at::Tensor& grad_out) {
  const int64_t rows = grad_out.size(0), columns = grad_out.size(1);
  add_column_sums(type_of(grad_out), floats(grad_bias, columns),
                  data(grad_out, grad_out.scalar_type(), rows * columns), rows, columns,
                  runtime().workspace, runtime().stream);
  check_launch();
}

// Logits are kept in T, rows of them on whole cache lines: they are written once, read twice, and
// overwritten by their gradients.
struct LossChunks {
  int64_t stride, rows;
};

LossChunks loss_chunks(const at::Tensor& scratch, int64_t L, int64_t V, int64_t element_bytes) {
  const auto bytes = static_cast<int64_t>(scratch.nbytes());
  int64_t stride = (V + 63) / 64 * 64;
  if (bytes < stride * element_bytes) stride = (V + 7) / 8 * 8;
  int64_t rows = bytes / (stride * element_bytes);
  TORCH_CHECK(rows > 0, bytes, " bytes of scratch hold no row of a vocabulary of ", V);
  if (rows >= L) return {stride, L};
  const int64_t chunks = (L + rows - 1) / rows;
  rows = (L + chunks - 1) / chunks;  // of one size, rather than a small last one
  const int64_t rounded = (rows + 127) / 128 * 128;
  return {stride, rounded * stride * element_bytes <= bytes ? rounded : rows};
}

void linear_cross_entropy(DeviceSums* sums, const at::Tensor& grad_hidden,
                          const at::Tensor& grad_weight, const at::Tensor& hidden,
                          const at::Tensor& weight, const int32_t* targets, const float* weights,
                          const at::Tensor& scratch) {
  const int64_t L = hidden.size(0), C = hidden.size(1), V = weight.size(0);
  if (L == 0) return;
  const at::ScalarType scalar = hidden.scalar_type();
  const cudaDataType_t type = cuda_type(scalar);
  const auto bytes = static_cast<int64_t>(hidden.element_size());
  auto* inputs = static_cast<char*>(data(hidden, scalar, L * C));
  auto* grad_inputs = static_cast<char*>(data_or_null(grad_hidden, scalar, L * C));
  float* grad_weights = floats_or_null(grad_weight, V * C);
  const MatmulOperand table{data(weight, scalar, V * C), type, C, false, nullptr};
  const LossChunks chunks = loss_chunks(scratch, L, V, bytes);
  const bool gradients = grad_inputs != nullptr || grad_weights != nullptr;
  const MatmulOperand logits{scratch.data_ptr(), type, chunks.stride, false, nullptr};
  const auto turned = [](MatmulOperand x) {
    x.transposed = true;
    return x;
  };
  for (int64_t first = 0; first < L; first += chunks.rows) {
    const int64_t rows = std::min(chunks.rows, L - first);
    const MatmulOperand input{inputs + first * C * bytes, type, C, false, nullptr};
    Matmul forward;
    forward.out = scratch.data_ptr();
    forward.out_type = type;
    forward.stride = chunks.stride;
    forward.M = rows, forward.N = V, forward.K = C;
    forward.a = input;
    forward.b = turned(table);
    matmul(forward);
    softmax_loss(
        type_of(hidden), sums,
        {scratch.data_ptr(), targets + first, weights + first, rows, V, chunks.stride, gradients},
        runtime().workspace, runtime().stream);
    check_launch();
    if (grad_weights != nullptr) {
      Matmul p;
      p.out = grad_weights;
      p.out_type = CUDA_R_32F;
      p.stride = C;
      p.M = V, p.N = C, p.K = rows;
      p.a = turned(logits);
      p.b = input;
      p.accumulate = true;
      matmul(p);
    }
    if (grad_inputs != nullptr) {  // may be the input, which nothing reads any more
      Matmul p;
      p.out = grad_inputs + first * C * bytes;
      p.out_type = type;
      p.stride = C;
      p.M = rows, p.N = C, p.K = V;
      p.a = logits;
      p.b = table;
      matmul(p);
    }
  }
}

// ---- 8 bits

Fp8 format_of(Fp8Format format) {
  return format == Fp8Format::e4m3 ? Fp8::e4m3 : Fp8::e5m2;
}

void fp8_quantize(const at::Tensor& values, const at::Tensor& transposed, const at::Tensor& amax,
                  const at::Tensor& input, const at::Tensor& scale, Fp8Format format) {
  const int64_t rows = input.size(0), columns = input.size(1), numel = rows * columns;
  TORCH_CHECK(columns % 16 == 0 && (!transposed.defined() || rows % 16 == 0), "8 bits of ",
              input.sizes(), ": not multiples of 16");
  if (!values.defined() && !transposed.defined()) return;
  Quantize q{};
  q.values = static_cast<uint8_t*>(data_or_null(values, at::kByte, numel));
  q.transposed = static_cast<uint8_t*>(data_or_null(transposed, at::kByte, numel));
  q.amax = amax.defined() ? static_cast<float*>(amax.data_ptr()) : nullptr;
  q.input = data(input, input.scalar_type(), numel);
  q.scale = static_cast<const float*>(scale.data_ptr());
  q.rows = rows;
  q.columns = columns;
  quantize(type_of(input), format_of(format), q, runtime().stream);
  check_launch();
}

void fp8_amax(const at::Tensor& highest, const at::Tensor& input) {
  amax(type_of(input), static_cast<float*>(highest.data_ptr()),
       data(input, input.scalar_type(), input.numel()), input.numel(), runtime().stream);
  check_launch();
}

void fp8_update_scales(const at::Tensor& history, const at::Tensor& amax, const at::Tensor& scale,
                       const at::Tensor& scale_inverse, const at::Tensor& largest, double margin) {
  const int64_t tensors = history.size(0), steps = history.size(1);
  update_scales(floats(history, tensors * steps), floats(amax, tensors), floats(scale, tensors),
                floats(scale_inverse, tensors), floats(largest, tensors), tensors, steps, margin,
                runtime().stream);
  check_launch();
}

MatmulOperand fp8_operand(const Fp8Operand& x, bool transposed) {
  return {data(x.values, at::kByte, x.values.numel()),
          x.format == Fp8Format::e4m3 ? CUDA_R_8F_E4M3 : CUDA_R_8F_E5M2, x.values.size(1),
          transposed, static_cast<const float*>(x.scale_inverse.data_ptr())};
}

void fp8_matmul(const at::Tensor& out, const Fp8Operand& a, const Fp8Operand& b,
                const at::Tensor& bias, bool accumulate) {
  Matmul p = into(out);
  p.K = a.values.size(1);
  TORCH_CHECK(a.values.size(0) == p.M && b.values.size(0) == p.N && b.values.size(1) == p.K,
              "products of ", a.values.sizes(), " and ", b.values.sizes(), " into ", out.sizes());
  TORCH_CHECK(p.M % 16 == 0 && p.N % 16 == 0 && p.K % 16 == 0, "8-bit product of ", p.M, " × ", p.K,
              " × ", p.N, ": not multiples of 16");
  p.a = fp8_operand(a, false);
  p.b = fp8_operand(b, true);
  p.accumulate = accumulate;
  set_bias(p, bias);
  matmul(p);
}

}  // namespace

void fill_products(DeviceTable& table) {
  table.gemm = gemm;
  table.linear_backward_bias = bias_gradient;
  table.linear_cross_entropy = linear_cross_entropy;
  DevicePlugin::Properties properties;
  device_properties(runtime().device, &properties);
  if (!properties.fp8) return;
  table.fp8_quantize = fp8_quantize;
  table.fp8_amax = fp8_amax;
  table.fp8_update_scales = fp8_update_scales;
  table.fp8_matmul = fp8_matmul;
}

}  // namespace train_sft::ops::cuda
