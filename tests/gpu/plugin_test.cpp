#include <ATen/detail/CUDAHooksInterface.h>
#include <dlfcn.h>

#include <array>
#include <cstdlib>

#include "gpu.h"

namespace train_sft::ops {

const at::Device kGpu{at::kCUDA, 0};

namespace {

Plugin load() {
  Plugin p;
  const char* named = std::getenv("TRAIN_SFT_CUDA_PLUGIN");
  const std::string path = named != nullptr ? named : TRAIN_SFT_CUDA_PLUGIN_PATH;
  void* library = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (library == nullptr) {
    p.why = dlerror();
    return p;
  }
  using Entry = const DevicePlugin* (*)();
  const auto entry = reinterpret_cast<Entry>(dlsym(library, kPluginEntry));
  if (entry == nullptr) {
    p.why = "no entry";
    return p;
  }
  p.plugin = entry();
  std::array<char, 512> why{};
  if (p.plugin->device_count(why.data(), why.size()) > 0)
    p.table = p.plugin->open(0, why.data(), why.size());
  p.why = why.data();
  return p;
}

}  // namespace

const Plugin& plugin() {
  static const Plugin loaded = load();
  return loaded;
}

namespace {

// Also where there is no GPU: the library loads, and says in words why it can do nothing.
TEST(CudaPlugin, LoadsAndSpeaks) {
  ASSERT_NE(plugin().plugin, nullptr) << plugin().why;
  EXPECT_EQ(plugin().plugin->interface_version, kDeviceInterface);
  EXPECT_EQ(plugin().plugin->table_bytes, sizeof(DeviceTable));
  EXPECT_EQ(std::string(plugin().plugin->torch_version).substr(0, 5), "2.11.");
  // torch looks for CUDA once, and for good: nothing may have asked before the plugin was loaded.
  EXPECT_TRUE(at::detail::getCUDAHooks().compiledWithCuDNN());
  if (plugin().table == nullptr) {
    EXPECT_GT(plugin().why.size(), 5u);
  }
}

class CudaRuntime : public GpuTest {};

TEST_F(CudaRuntime, Properties) {
  DevicePlugin::Properties p;
  plugin().plugin->properties(0, &p);
  EXPECT_GE(p.major, 8);
  EXPECT_TRUE(p.bf16);
  EXPECT_EQ(p.fp8, p.major >= 9 || (p.major == 8 && p.minor == 9));
  EXPECT_EQ(table().fp8_matmul != nullptr, p.fp8);
  DeviceMemory memory;
  table().memory(&memory);
  EXPECT_GT(memory.free, 0u);
  EXPECT_EQ(memory.total / 1000000000, p.memory_bytes / 1000000000);
  RecordProperty("gpu", p.name);
}

TEST_F(CudaRuntime, WhatGoesUpComesDown) {
  for (int i = 0; i < 20; ++i) {  // more than the slots of the ring
    std::vector<int32_t> numbers(1000);
    for (int n = 0; n < 1000; ++n) numbers[n] = i * 1000 + n;
    EXPECT_EQ(Uploaded<int32_t>(numbers).download(1000), numbers);
  }
}

TEST_F(CudaRuntime, DownloadsAreTakenInAnyOrder) {
  const Uploaded<double> a({1.0}), b({2.0});
  const uint64_t first = table().download_begin(a.data(), 8);
  const uint64_t second = table().download_begin(b.data(), 8);
  double x = 0, y = 0;
  table().download_end(second, &y, 8);
  table().download_end(first, &x, 8);
  EXPECT_EQ(x, 1);
  EXPECT_EQ(y, 2);
  EXPECT_ANY_THROW(table().download_end(first, &x, 8));
}

// A recorded chain of ops, replayed on other data, gives the bits of the same chain run eagerly.
TEST_F(CudaRuntime, AGraphReplaysWhatEagerRuns) {
  const AttentionShape shape{4, 2, 64};
  const int64_t N = 256;
  const Uploaded<int32_t> limits({0, 100, 256, 256});
  const DeviceDocuments documents{limits.data(), 3, 256};
  at::Tensor qkv = on_gpu(normal({N, shape.qkv_width()}, at::kBFloat16));
  const at::Tensor out = unwritten({N, shape.out_width()}, at::kBFloat16),
                   lse = unwritten({4, N}, at::kFloat);
  const at::Tensor w = on_gpu(normal({shape.out_width(), 96}, at::kBFloat16));
  const at::Tensor y = unwritten({N, 96}, at::kBFloat16),
                   grad = unwritten(qkv.sizes(), at::kBFloat16);
  const auto chain = [&] {
    table().attention_forward(out, lse, qkv, documents, shape);
    table().attention_backward(grad, out, out, lse, qkv, documents, shape);
    table().gemm(y, out, false, w, false, 1.0, {}, false);
    table().gelu_forward(y, y);
  };
  chain();  // everything is run once before it is recorded
  table().graph_begin();
  chain();
  void* graph = table().graph_end();
  for (int i = 0; i < 3; ++i) {
    qkv.copy_(normal(qkv.sizes(), at::kBFloat16));
    chain();
    const at::Tensor eager = on_cpu(y), eager_grad = on_cpu(grad);
    y.fill_(std::nan(""));
    grad.fill_(std::nan(""));
    table().graph_replay(graph);
    EXPECT_SAME(y, eager);
    EXPECT_SAME(grad, eager_grad);
  }
  table().graph_destroy(graph);
}

TEST_F(CudaRuntime, AFailedCaptureLeavesTheStreamUsable) {
  const at::Tensor x = on_gpu(normal({16, 16}, at::kFloat)), y = unwritten({16, 16}, at::kFloat);
  table().graph_begin();
  table().gelu_forward(y, x);
  EXPECT_ANY_THROW(table().gelu_forward(y, x.narrow(0, 0, 8)));
  table().graph_abort();
  table().gelu_forward(y, x);
  table().synchronize();
  EXPECT_FALSE(on_cpu(y).isnan().any().item<bool>());
}

}  // namespace
}  // namespace train_sft::ops
