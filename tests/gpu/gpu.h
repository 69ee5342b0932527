// The plugin's table in tests, loaded as the program loads it, and tensors that go between the CPU
// and the GPU. Without a GPU every test of a fixture made from GpuTest is skipped by name.
#pragma once

#include <ATen/TensorOperators.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/full_like.h>
#include <ATen/ops/linalg_vector_norm.h>
#include <ATen/ops/randn.h>
#include <ATen/ops/tensor.h>
#include <ATen/ops/zeros.h>
#include <ATen/ops/zeros_like.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <string>
#include <vector>

#include "train_sft/ops/device_table.h"

namespace train_sft::ops {

struct Plugin {
  const DevicePlugin* plugin = nullptr;
  const DeviceTable* table = nullptr;
  std::string why;  // there is no table
};
// Loaded once; TRAIN_SFT_CUDA_PLUGIN, or the library beside the test's build.
const Plugin& plugin();

class GpuTest : public testing::Test {
 protected:
  void SetUp() override {
    if (plugin().table == nullptr) GTEST_SKIP() << "no GPU: " << plugin().why;
  }
};
template <typename P>
class GpuTestWith : public testing::TestWithParam<P> {
 protected:
  void SetUp() override {
    if (plugin().table == nullptr) GTEST_SKIP() << "no GPU: " << plugin().why;
  }
};

inline const DeviceTable& table() {
  return *plugin().table;
}

// Where the kernels run: a GPU in gpu_tests; in emulated_gpu_tests the CPU, one thread after another.
extern const at::Device kGpu;

// Always a copy; from the GPU it waits.
inline at::Tensor on_gpu(const at::Tensor& tensor) {
  if (!tensor.defined()) return tensor;
  return tensor.to(kGpu, tensor.scalar_type(), /*non_blocking=*/false, /*copy=*/true);
}
inline at::Tensor on_cpu(const at::Tensor& tensor) {
  return tensor.to(at::kCPU, tensor.scalar_type(), /*non_blocking=*/false, /*copy=*/true);
}

// A result to be written: NaN (or 0xFF) where a kernel forgets.
inline at::Tensor unwritten(at::IntArrayRef shape, at::ScalarType type) {
  at::Tensor tensor = at::empty(shape, at::TensorOptions(type).device(kGpu));
  return type == at::kByte ? tensor.fill_(255) : tensor.fill_(std::nan(""));
}
inline at::Tensor like(const at::Tensor& cpu) {
  return unwritten(cpu.sizes(), cpu.scalar_type());
}

inline at::Tensor normal(at::IntArrayRef shape, at::ScalarType type, double scale = 1) {
  return (at::randn(shape, at::kFloat) * scale).to(type);
}

// An array of the host, there.
template <typename T>
class Uploaded {
 public:
  explicit Uploaded(const std::vector<T>& host)
      : tensor_(at::empty({static_cast<int64_t>(host.size() * sizeof(T)) + 16},
                          at::TensorOptions(at::kByte).device(kGpu))) {
    table().upload(tensor_.data_ptr(), host.data(), host.size() * sizeof(T));
  }
  T* data() const { return static_cast<T*>(tensor_.data_ptr()); }
  std::vector<T> download(size_t count = 1) const {
    std::vector<T> host(count);
    const uint64_t ticket = table().download_begin(tensor_.data_ptr(), count * sizeof(T));
    table().download_end(ticket, host.data(), count * sizeof(T));
    return host;
  }

 private:
  at::Tensor tensor_;
};

// ‖a − b‖ / ‖b‖, in double; NaN stays NaN.
inline double relative_error(const at::Tensor& a, const at::Tensor& b) {
  const at::Tensor x = on_cpu(a).to(at::kDouble).flatten(), y = b.to(at::kDouble).flatten();
  const double of_b = at::linalg_vector_norm(y).item<double>();
  return at::linalg_vector_norm(x - y).item<double>() / (of_b > 0 ? of_b : 1.0);
}

// Rounding of one operation in T, with room for a different order of sums.
inline double rounding(at::ScalarType type) {
  return type == at::kBFloat16 ? 6e-3 : 3e-6;
}

#define EXPECT_CLOSE(gpu, cpu, limit) EXPECT_LE(relative_error(gpu, cpu), limit) << #gpu
#define EXPECT_SAME(gpu, cpu) EXPECT_TRUE(on_cpu(gpu).equal(cpu)) << #gpu

}  // namespace train_sft::ops
