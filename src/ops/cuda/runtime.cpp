#include "ops/cuda/runtime.h"

#include <ATen/Context.h>
#include <ATen/cuda/CUDAGraph.h>
#include <ATen/ops/empty.h>
#include <c10/cuda/CUDACachingAllocator.h>
#include <c10/cuda/CUDAException.h>
#include <c10/cuda/CUDAStream.h>

#include <array>
#include <cstdio>
#include <cstring>
#include <memory>

namespace train_sft::ops::cuda {
namespace {

constexpr int64_t kWorkspace = int64_t{32} << 20;

Runtime& the_runtime() {
  static auto* runtime = new Runtime;  // never destroyed: the driver may be gone by then
  return *runtime;
}

void say(char* why, uint64_t size, const char* text) {
  if (why != nullptr && size > 0) std::snprintf(why, size, "%s", text);
}

// Pinned memory with the event of the copy that uses it.
class Pinned {
 public:
  Pinned() { C10_CUDA_CHECK(cudaEventCreateWithFlags(&copied_, cudaEventDisableTiming)); }
  Pinned(const Pinned&) = delete;
  Pinned& operator=(const Pinned&) = delete;
  ~Pinned() {
    if (memory_ != nullptr) cudaFreeHost(memory_);
    cudaEventDestroy(copied_);
  }

  // Memory that no copy uses any more.
  void* take(uint64_t bytes) {
    wait();
    if (bytes > bytes_) {
      if (memory_ != nullptr) C10_CUDA_CHECK(cudaFreeHost(memory_));
      memory_ = nullptr;
      bytes_ = 0;
      C10_CUDA_CHECK(cudaHostAlloc(&memory_, bytes, cudaHostAllocDefault));
      bytes_ = bytes;
    }
    return memory_;
  }
  const void* memory() const { return memory_; }
  void queued() { C10_CUDA_CHECK(cudaEventRecord(copied_, runtime().stream)); }
  void wait() { C10_CUDA_CHECK(cudaEventSynchronize(copied_)); }  // at once before the first use

 private:
  void* memory_ = nullptr;
  uint64_t bytes_ = 0;
  cudaEvent_t copied_ = nullptr;
};

struct Transfers {
  std::array<Pinned, 4> uploads;
  size_t next_upload = 0;
  std::array<std::unique_ptr<Pinned>, 64> downloads;
  std::array<bool, 64> taken{};
};

Transfers& transfers() {
  static auto* transfers = new Transfers;  // as the runtime
  return *transfers;
}

void memory(DeviceMemory* out) {
  size_t free = 0, total = 0;
  C10_CUDA_CHECK(cudaMemGetInfo(&free, &total));
  const auto stats = c10::cuda::CUDACachingAllocator::getDeviceStats(
      static_cast<c10::DeviceIndex>(runtime().device));
  const auto& reserved = stats.reserved_bytes[0];  // of all pools
  out->free = free;
  out->total = total;
  out->reserved = static_cast<uint64_t>(reserved.current);
  out->peak = static_cast<uint64_t>(reserved.peak);
}

void synchronize() {
  C10_CUDA_CHECK(cudaStreamSynchronize(runtime().stream));
}

void upload(void* device, const void* host, uint64_t bytes) {
  if (bytes == 0) return;
  Transfers& t = transfers();
  Pinned& slot = t.uploads[t.next_upload++ % t.uploads.size()];
  std::memcpy(slot.take(bytes), host, bytes);
  C10_CUDA_CHECK(
      cudaMemcpyAsync(device, slot.memory(), bytes, cudaMemcpyHostToDevice, runtime().stream));
  slot.queued();
}

uint64_t download_begin(const void* device, uint64_t bytes) {
  constexpr uint64_t kMost = 4096;
  TORCH_CHECK(bytes <= kMost, "a download of ", bytes, " bytes, at most ", kMost);
  Transfers& t = transfers();
  size_t ticket = 0;
  while (ticket < t.taken.size() && t.taken[ticket]) ++ticket;
  TORCH_CHECK(ticket < t.taken.size(), "more than ", t.taken.size(), " downloads outstanding");
  if (!t.downloads[ticket]) t.downloads[ticket] = std::make_unique<Pinned>();
  Pinned& slot = *t.downloads[ticket];
  C10_CUDA_CHECK(
      cudaMemcpyAsync(slot.take(kMost), device, bytes, cudaMemcpyDeviceToHost, runtime().stream));
  slot.queued();
  t.taken[ticket] = true;
  return ticket;
}

void download_end(uint64_t ticket, void* host, uint64_t bytes) {
  Transfers& t = transfers();
  TORCH_CHECK(ticket < t.taken.size() && t.taken[ticket], "no download ", ticket);
  Pinned& slot = *t.downloads[ticket];
  slot.wait();
  std::memcpy(host, slot.memory(), bytes);
  t.taken[ticket] = false;
}

// ---- graphs. What flash attention allocates while it is recorded comes from a pool of memory that
// only graphs use; they run one after another, so one pool serves them all.
struct Graph {
  cudaGraphExec_t executable = nullptr;
};

c10::cuda::MempoolId_t pool() {
  static const c10::cuda::MempoolId_t id = at::cuda::graph_pool_handle();
  return id;
}

c10::DeviceIndex device_index() {
  return static_cast<c10::DeviceIndex>(runtime().device);
}

void graph_begin() {
  const cudaStream_t stream = runtime().stream;
  c10::cuda::CUDACachingAllocator::beginAllocateToPool(
      device_index(), pool(), [stream](cudaStream_t other) { return other == stream; });
  const cudaError_t error = cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal);
  if (error == cudaSuccess) return;
  c10::cuda::CUDACachingAllocator::endAllocateToPool(device_index(), pool());
  c10::cuda::CUDACachingAllocator::releasePool(device_index(), pool());
  C10_CUDA_CHECK(error);
}

void graph_abort() {
  cudaGraph_t graph = nullptr;
  if (cudaStreamEndCapture(runtime().stream, &graph) == cudaSuccess && graph != nullptr)
    cudaGraphDestroy(graph);
  cudaGetLastError();  // that of the capture, which is known
  c10::cuda::CUDACachingAllocator::endAllocateToPool(device_index(), pool());
  c10::cuda::CUDACachingAllocator::releasePool(device_index(), pool());
}

void* graph_end() {
  cudaGraph_t graph = nullptr;
  const cudaError_t error = cudaStreamEndCapture(runtime().stream, &graph);
  c10::cuda::CUDACachingAllocator::endAllocateToPool(device_index(), pool());
  auto made = std::make_unique<Graph>();
  const cudaError_t instantiated =
      error == cudaSuccess ? cudaGraphInstantiate(&made->executable, graph, 0) : error;
  if (graph != nullptr) cudaGraphDestroy(graph);
  if (instantiated != cudaSuccess)
    c10::cuda::CUDACachingAllocator::releasePool(device_index(), pool());
  C10_CUDA_CHECK(instantiated);
  return made.release();
}

void graph_replay(void* graph) {
  C10_CUDA_CHECK(cudaGraphLaunch(static_cast<Graph*>(graph)->executable, runtime().stream));
}

void graph_destroy(void* graph) {
  if (graph == nullptr) return;
  const std::unique_ptr<Graph> owned(static_cast<Graph*>(graph));
  synchronize();  // its memory goes to others
  C10_CUDA_CHECK(cudaGraphExecDestroy(owned->executable));
  c10::cuda::CUDACachingAllocator::releasePool(device_index(), pool());
}

void set_deterministic(bool on) {
  runtime().deterministic = on;
}

}  // namespace

Runtime& runtime() {
  TORCH_CHECK(the_runtime().device >= 0, "no CUDA device was opened");
  return the_runtime();
}

int device_count(char* why, uint64_t size) {
  int count = 0;
  const cudaError_t error = cudaGetDeviceCount(&count);
  if (error == cudaSuccess && count > 0) return count;
  say(why, size, error == cudaSuccess ? "no CUDA device" : cudaGetErrorString(error));
  cudaGetLastError();
  return 0;
}

bool open_device(int device, char* why, uint64_t size) {
  try {
    cudaDeviceProp properties{};
    C10_CUDA_CHECK(cudaGetDeviceProperties(&properties, device));
    if (properties.major < 8) {
      char text[320];
      std::snprintf(text, sizeof text, "%s has compute capability %d.%d; 8.0 (Ampere) is the least",
                    properties.name, properties.major, properties.minor);
      say(why, size, text);
      return false;
    }
    C10_CUDA_CHECK(cudaSetDevice(device));
    at::globalContext().lazyInitDevice(c10::DeviceType::CUDA);
    // Attention asks for deterministic kernels call by call; nothing need be filled with NaN then.
    at::globalContext().setDeterministicFillUninitializedMemory(false);
    const auto stream = c10::cuda::getStreamFromPool(/*isHighPriority=*/true,
                                                     static_cast<c10::DeviceIndex>(device));
    c10::cuda::setCurrentCUDAStream(stream);
    Runtime& r = the_runtime();
    r.stream = stream.stream();
    r.memory_of_workspaces =
        at::empty({2 * kWorkspace}, at::TensorOptions(at::kByte).device(at::kCUDA, device));
    auto* memory = static_cast<char*>(r.memory_of_workspaces.data_ptr());
    r.workspace = {memory, kWorkspace};
    r.products = {memory + kWorkspace, kWorkspace};
    r.device = device;
    return true;
  } catch (const std::exception& error) {
    say(why, size, error.what());
    return false;
  }
}

void device_properties(int device, DevicePlugin::Properties* out) {
  cudaDeviceProp p{};
  C10_CUDA_CHECK(cudaGetDeviceProperties(&p, device));
  std::snprintf(out->name, sizeof out->name, "%.127s", p.name);
  out->major = p.major;
  out->minor = p.minor;
  out->processors = p.multiProcessorCount;
  out->memory_bytes = p.totalGlobalMem;
  out->bf16 = p.major >= 8;
  out->fp8 = p.major >= 9 || (p.major == 8 && p.minor == 9);
}

void fill_runtime(DeviceTable& table) {
  table.memory = memory;
  table.synchronize = synchronize;
  table.upload = upload;
  table.download_begin = download_begin;
  table.download_end = download_end;
  table.graph_begin = graph_begin;
  table.graph_end = graph_end;
  table.graph_abort = graph_abort;
  table.graph_replay = graph_replay;
  table.graph_destroy = graph_destroy;
  table.set_deterministic = set_deterministic;
}

Type type_of(const at::Tensor& tensor) {
  if (tensor.scalar_type() == at::kBFloat16) return Type::bf16;
  TORCH_CHECK(tensor.scalar_type() == at::kFloat, "CUDA computes in bfloat16 or float32, not ",
              tensor.scalar_type());
  return Type::f32;
}

void* data(const at::Tensor& tensor, at::ScalarType type, int64_t numel) {
  TORCH_CHECK(tensor.defined(), "undefined tensor");
  TORCH_CHECK(is_here(tensor), "a tensor on ", tensor.device(), " among those on CUDA");
  TORCH_CHECK(tensor.scalar_type() == type, tensor.scalar_type(), " where ", type, " is expected");
  TORCH_CHECK(tensor.numel() == numel, tensor.numel(), " elements where ", numel, " are expected");
  TORCH_CHECK(tensor.is_contiguous(), "tensor is not contiguous");
  return tensor.data_ptr();
}

bool is_here(const at::Tensor& tensor) {
  return tensor.is_cuda();
}

void check_launch() {
  C10_CUDA_CHECK(cudaGetLastError());
}

}  // namespace train_sft::ops::cuda
