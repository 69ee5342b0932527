// The plugin's runtime and libraries, on the CPU: its glue and kernels run above, as they are.
#include <c10/util/BFloat16.h>
#include <c10/util/Exception.h>
#include <c10/util/Float8_e4m3fn.h>
#include <c10/util/Float8_e5m2.h>

#include <cstdio>
#include <cstring>
#include <map>
#include <vector>

#include "gpu.h"
#include "ops/cuda/matmul.h"
#include "ops/cuda/runtime.h"

extern "C" const train_sft::ops::DevicePlugin* train_sft_device_plugin();

namespace train_sft::ops {

const at::Device kGpu{at::kCPU};

const Plugin& plugin() {
  static const Plugin loaded = [] {
    Plugin p;
    p.plugin = train_sft_device_plugin();
    p.table = p.plugin->open(0, nullptr, 0);
    return p;
  }();
  return loaded;
}

namespace cuda {
namespace {

// Small, so that kernels which cut their work by its size do.
constexpr int64_t kWorkspace = 512 << 10;

float element(const MatmulOperand& x, int64_t row, int64_t column) {
  const int64_t i = x.transposed ? column * x.stride + row : row * x.stride + column;
  switch (x.type) {
    case CUDA_R_32F:
      return static_cast<const float*>(x.data)[i];
    case CUDA_R_16BF:
      return static_cast<const c10::BFloat16*>(x.data)[i];
    case CUDA_R_8F_E4M3:
      return *x.scale * static_cast<float>(static_cast<const c10::Float8_e4m3fn*>(x.data)[i]);
    default:
      return *x.scale * static_cast<float>(static_cast<const c10::Float8_e5m2*>(x.data)[i]);
  }
}

std::vector<float> dense(const MatmulOperand& x, int64_t rows, int64_t columns) {
  std::vector<float> values(static_cast<size_t>(rows * columns));
  for (int64_t r = 0; r < rows; ++r)
    for (int64_t c = 0; c < columns; ++c)
      values[static_cast<size_t>(r * columns + c)] = element(x, r, c);
  return values;
}

void attention(const at::Tensor& out, const at::Tensor& lse, const at::Tensor& qkv,
               const DeviceDocuments& documents, const AttentionShape& shape) {
  attention_forward(type_of(qkv),
                    {out.data_ptr(), lse.data_ptr<float>(), qkv.data_ptr(), nullptr, nullptr,
                     documents.cu_seqlens, documents.count, qkv.size(0), shape.n_head,
                     shape.n_kv_head, shape.head_dim},
                    nullptr);
}

void attention_gradient(const at::Tensor& grad_qkv, const at::Tensor& grad_out,
                        const at::Tensor& out, const at::Tensor& lse, const at::Tensor& qkv,
                        const DeviceDocuments& documents, const AttentionShape& shape) {
  attention_backward(type_of(qkv),
                     {out.data_ptr(), lse.data_ptr<float>(), qkv.data_ptr(), grad_qkv.data_ptr(),
                      grad_out.data_ptr(), documents.cu_seqlens, documents.count, qkv.size(0),
                      shape.n_head, shape.n_kv_head, shape.head_dim},
                     runtime().workspace, nullptr);
}

}  // namespace

void matmul(const Matmul& p) {
  const std::vector<float> a = dense(p.a, p.M, p.K), b = dense(p.b, p.K, p.N);
  for (int64_t m = 0; m < p.M; ++m) {
    std::vector<double> sums(static_cast<size_t>(p.N));
    for (int64_t k = 0; k < p.K; ++k) {
      const double x = a[static_cast<size_t>(m * p.K + k)];
      for (int64_t n = 0; n < p.N; ++n)
        sums[static_cast<size_t>(n)] += x * b[static_cast<size_t>(k * p.N + n)];
    }
    for (int64_t n = 0; n < p.N; ++n) {
      const MatmulOperand out{p.out, p.out_type, p.stride, false, nullptr};
      const MatmulOperand bias{p.bias, p.bias_type, 0, false, nullptr};
      double y = p.alpha * sums[static_cast<size_t>(n)];
      if (p.bias != nullptr) y += element(bias, 0, n);
      if (p.accumulate) y += element(out, m, n);
      if (p.out_type == CUDA_R_32F)
        static_cast<float*>(p.out)[m * p.stride + n] = static_cast<float>(y);
      else
        static_cast<c10::BFloat16*>(p.out)[m * p.stride + n] = static_cast<float>(y);
    }
  }
}

Runtime& runtime() {
  static Runtime runtime = [] {
    Runtime made;
    made.device = 0;
    made.memory_of_workspaces = at::empty({kWorkspace}, at::kByte);
    made.workspace = {made.memory_of_workspaces.data_ptr(), kWorkspace};
    return made;
  }();
  return runtime;
}

int device_count(char*, uint64_t) {
  return 1;
}
bool open_device(int, char*, uint64_t) {
  return true;
}
void device_properties(int, DevicePlugin::Properties* out) {
  *out = {"emulated", 9, 0, 1, 0, true, true};
}

void fill_runtime(DeviceTable& table) {
  static std::map<uint64_t, std::vector<char>> downloads;
  table.upload = [](void* to, const void* from, uint64_t bytes) { std::memcpy(to, from, bytes); };
  table.download_begin = [](const void* from, uint64_t bytes) -> uint64_t {
    const auto* data = static_cast<const char*>(from);
    static uint64_t ticket = 0;
    downloads[++ticket].assign(data, data + bytes);
    return ticket;
  };
  table.download_end = [](uint64_t ticket, void* to, uint64_t bytes) {
    std::memcpy(to, downloads.at(ticket).data(), bytes);
    downloads.erase(ticket);
  };
  table.synchronize = [] {};
  table.set_deterministic = [](bool) {};
}

void fill_attention(DeviceTable& table) {
  table.attention_forward = attention;
  table.attention_backward = attention_gradient;
}

Type type_of(const at::Tensor& tensor) {
  TORCH_CHECK(tensor.scalar_type() == at::kBFloat16 || tensor.scalar_type() == at::kFloat);
  return tensor.scalar_type() == at::kBFloat16 ? Type::bf16 : Type::f32;
}

void* data(const at::Tensor& tensor, at::ScalarType type, int64_t numel) {
  TORCH_CHECK(tensor.defined() && tensor.scalar_type() == type && tensor.numel() == numel &&
              tensor.is_contiguous());
  return tensor.data_ptr();
}

bool is_here(const at::Tensor& tensor) {
  return tensor.is_cpu();
}

void check_launch() {}

}  // namespace cuda
}  // namespace train_sft::ops
