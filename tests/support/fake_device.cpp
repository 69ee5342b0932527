#include "support/fake_device.h"

#include <ATen/EmptyTensor.h>
#include <ATen/ops/as_strided_native.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/from_blob.h>
#include <ATen/ops/view_native.h>
#include <c10/core/impl/DeviceGuardImplInterface.h>
#include <sys/mman.h>
#include <torch/library.h>

#include <map>

#include "support/fake_device_memory.h"
#include "train_sft/base/error.h"

namespace train_sft::fake_device {
namespace {

constexpr size_t kPage = 4096;
c10::DispatchKey key() {
  return kType == c10::DeviceType::CUDA ? c10::DispatchKey::CUDA : c10::DispatchKey::PrivateUse1;
}

std::map<void*, size_t>& blocks() {
  static std::map<void*, size_t> blocks;
  return blocks;
}

void protect(int how) {
  for (const auto& [begin, bytes] : blocks())
    TRAIN_SFT_CHECK(mprotect(begin, bytes, how) == 0, "mprotect of {} bytes", bytes);
}

void release(void* begin) {
  flush();  // queued work may use it
  const auto found = blocks().find(begin);
  TRAIN_SFT_CHECK(found != blocks().end(), "a block that is not there");
  state().counts.bytes -= static_cast<int64_t>(found->second);
  munmap(begin, found->second);
  blocks().erase(found);
}

class Allocator : public c10::Allocator {
 public:
  c10::DataPtr allocate(size_t bytes) override {
    if (bytes == 0) return {nullptr, nullptr, &release, kDevice};
    not_in_a_capture("an allocation");
    State& s = state();
    const size_t size = (bytes + kPage - 1) / kPage * kPage;
    const bool full = s.limit > 0 && s.counts.bytes + static_cast<int64_t>(size) > s.limit;
    TORCH_CHECK_WITH(OutOfMemoryError, !s.allocation.now() && !full,
                     "the fake device has no memory for ", bytes, " bytes");
    flush();  // a new block may not become readable in the middle of queued work
    void* begin = mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    TRAIN_SFT_CHECK(begin != MAP_FAILED, "mmap of {} bytes", size);
    std::memset(begin, 0xFF, size);  // not numbers
    mprotect(begin, size, PROT_NONE);
    blocks()[begin] = size;
    ++s.counts.allocations;
    s.counts.bytes += static_cast<int64_t>(size);
    s.counts.peak_bytes = std::max(s.counts.peak_bytes, s.counts.bytes);
    return {begin, begin, &release, kDevice};
  }
  c10::DeleterFnPtr raw_deleter() const override { return &release; }
  void copy_data(void*, const void*, std::size_t) const override {
    throw InternalError("storage of the fake device is not copied");
  }
};

at::Tensor empty(c10::IntArrayRef size, std::optional<at::ScalarType> dtype,
                 std::optional<at::Layout>, std::optional<at::Device>, std::optional<bool>,
                 std::optional<at::MemoryFormat>) {
  static Allocator allocator;
  return at::detail::empty_generic(size, &allocator, c10::DispatchKeySet(key()),
                                   dtype.value_or(at::kFloat), std::nullopt);
}

at::Tensor empty_strided(c10::IntArrayRef size, c10::IntArrayRef,
                         std::optional<at::ScalarType> dtype, std::optional<at::Layout> layout,
                         std::optional<at::Device> device, std::optional<bool> pin) {
  return empty(size, dtype, layout, device, pin, std::nullopt);
}

at::Tensor& copy(at::Tensor& to, const at::Tensor& from, bool) {
  not_in_a_capture("a copy");
  if (from.is_cpu()) {  // taken before it returns, as from pageable memory
    submit([to = host_alias(to), from = from.clone()] { to.copy_(from); });
    return to;
  }
  submit([to = to.is_cpu() ? to : host_alias(to), from = host_alias(from)] { to.copy_(from); });
  if (to.is_cpu()) {
    ++state().counts.waits;
    flush();
  }
  return to;
}

at::Tensor& fill(at::Tensor& tensor, const at::Scalar& value) {
  submit([to = host_alias(tensor), value] { to.fill_(value); });
  return tensor;
}
at::Tensor& zero(at::Tensor& tensor) {
  return fill(tensor, 0);
}

Device* the_device = nullptr;
ops::DeviceTable the_table;

}  // namespace

State& state() {
  static State state;
  return state;
}

void flush(uint64_t until) {
  static bool running = false;
  State& s = state();
  if (running || s.queue.empty() || s.done >= until) return;
  running = true;
  protect(PROT_READ | PROT_WRITE);
  while (!s.queue.empty() && s.done < until) {
    const std::function<void()> work = std::move(s.queue.front());
    s.queue.pop_front();
    ++s.done;
    work();
  }
  protect(PROT_NONE);
  running = false;
}

void wait_for(uint64_t done) {
  State& s = state();
  if (s.done < done) ++(s.queued() == done ? s.counts.waits : s.counts.waits_behind);
  flush(done);
}

void submit(std::function<void()> work) {
  State& s = state();
  ++s.counts.calls;
  if (s.capturing)
    s.recorded.push_back(std::move(work));
  else
    s.queue.push_back(std::move(work));
}

void not_in_a_capture(const char* what) {
  State& s = state();
  s.capture_broken = s.capture_broken || s.capturing;
  TORCH_CHECK(!s.capturing, what, " while a graph is captured");
}

at::Tensor host_alias(const at::Tensor& tensor) {
  if (!tensor.defined()) return {};
  TRAIN_SFT_CHECK(tensor.device() == kDevice, "a tensor on {} given to the fake device",
                  tensor.device().str());
  return at::from_blob(const_cast<void*>(tensor.const_data_ptr()), tensor.sizes(), tensor.strides(),
                       at::TensorOptions().dtype(tensor.scalar_type()));
}

at::Tensor on_host(const at::Tensor& tensor) {
  at::Tensor host = at::empty_like(tensor, at::TensorOptions().device(at::kCPU));
  host.copy_(tensor);
  return host;
}

Device::Device() {
  TRAIN_SFT_CHECK(the_device == nullptr, "one fake device at a time");
  the_device = this;
  state().counts = {};
  the_table = table();
  ops::register_device_table(kType, &the_table);
}
Device::~Device() {
  release_scratch();
  flush();
  state().allocation = state().capture = state().replay = {};
  state().limit = 0;
  ops::register_device_table(kType, nullptr);
  the_device = nullptr;
}
const Counts& Device::counts() const {
  return state().counts;
}
void Device::fail_allocation(int64_t number, int64_t times) {
  state().allocation = {number, times};
}
void Device::fail_capture(int64_t number, int64_t times) {
  state().capture = {number, times};
}
void Device::fail_replay(int64_t number, int64_t times) {
  state().replay = {number, times};
}
void Device::limit_bytes(int64_t bytes) {
  state().limit = bytes;
}
void Device::wait() {
  flush();
}

namespace {

// What torch calls for tensors of the device.
torch::Library operators() {
  torch::Library m(torch::Library::IMPL, "aten", key(), __FILE__, __LINE__);
  m.impl("empty.memory_format", &empty);
  m.impl("empty_strided", &empty_strided);
  m.impl("as_strided", &at::native::as_strided_tensorimpl);
  m.impl("view", &at::native::view);
  m.impl("copy_", &copy);
  m.impl("fill_.Scalar", &fill);
  m.impl("zero_", &zero);
  return m;
}
const c10::impl::DeviceGuardImplInterface* guard() {
  using c10::DeviceType;
  static const c10::impl::NoOpDeviceGuardImpl<DeviceType::CUDA> cuda;
  static const c10::impl::NoOpDeviceGuardImpl<DeviceType::PrivateUse1> other;
  if (kType == DeviceType::CUDA) return &cuda;
  return &other;
}
const torch::Library kOperators = operators();
const c10::impl::DeviceGuardImplRegistrar kGuard(kType, guard());

}  // namespace
}  // namespace train_sft::fake_device
