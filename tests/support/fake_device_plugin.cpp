// The fake device as a plugin that the real program loads ($TRAIN_SFT_CUDA_PLUGIN), so that what
// runs on GPUs in several processes is tested without one: FAKE_GPUS (2) of them, joined by c10d's
// Gloo on copies in the host's memory. As NCCL does, a transfer begins behind what is queued, and
// its result is in place for what is queued after it was waited for.
#include <ATen/ops/empty_like.h>
#include <ATen/ops/full.h>
#include <torch/headeronly/version.h>

#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <torch/csrc/distributed/c10d/ProcessGroupGloo.hpp>
#include <utility>

#include "support/fake_device_memory.h"
#include "train_sft/ops/connect_devices.h"

namespace train_sft::fake_device {

constinit const c10::DeviceType kType = c10::DeviceType::CUDA;
c10::Device kDevice{kType, 0};

namespace {

using WorkPointer = c10::intrusive_ptr<c10d::Work>;

class Transfer final : public c10d::Work {
 public:
  // takes: whether the result comes back to this rank; elsewhere what stands there is of no use.
  Transfer(WorkPointer between_hosts, at::Tensor host, at::Tensor device, bool takes)
      : between_hosts_(std::move(between_hosts)),
        host_(std::move(host)),
        device_(std::move(device)),
        takes_(takes) {}

  bool isCompleted() override { return between_hosts_->isCompleted(); }
  std::exception_ptr exception() const override { return between_hosts_->exception(); }
  bool wait(std::chrono::milliseconds) override {
    between_hosts_->wait();
    device_.copy_(takes_ ? host_ : at::full(host_.sizes(), NAN, host_.options()));
    return true;
  }

 private:
  WorkPointer between_hosts_;
  at::Tensor host_, device_;
  bool takes_;
};

class Transport final : public c10d::Backend {
 public:
  Transport(const c10::intrusive_ptr<c10d::Store>& store, int rank, int size)
      : Backend(rank, size) {
    auto options = c10d::ProcessGroupGloo::Options::create(std::chrono::seconds(60));
    options->devices.push_back(c10d::ProcessGroupGloo::createDeviceForHostname("127.0.0.1"));
    hosts_ = c10::make_intrusive<c10d::ProcessGroupGloo>(store, rank, size, options);
  }

  WorkPointer allreduce(std::vector<at::Tensor>& tensors,
                        const c10d::AllreduceOptions& options) override {
    return begin(tensors, true, [&](auto& host) { return hosts_->allreduce(host, options); });
  }
  WorkPointer reduce(std::vector<at::Tensor>& tensors,
                     const c10d::ReduceOptions& options) override {
    const bool is_root = options.rootRank == rank_;
    return begin(tensors, is_root, [&](auto& host) { return hosts_->reduce(host, options); });
  }
  WorkPointer broadcast(std::vector<at::Tensor>& tensors,
                        const c10d::BroadcastOptions& options) override {
    return begin(tensors, true, [&](auto& host) { return hosts_->broadcast(host, options); });
  }

 private:
  template <typename Start>
  static WorkPointer begin(const std::vector<at::Tensor>& tensors, bool takes, const Start& start) {
    not_in_a_capture("a collective");
    std::vector<at::Tensor> host{on_host(tensors.at(0))};
    WorkPointer work = start(host);
    return c10::make_intrusive<Transfer>(std::move(work), host[0], tensors[0], takes);
  }

  c10::intrusive_ptr<c10d::ProcessGroupGloo> hosts_;
};

int count_fakes(char*, uint64_t) {
  const char* count = std::getenv("FAKE_GPUS");
  return count == nullptr ? 2 : std::atoi(count);
}

const ops::DeviceTable* open_fake(int index, char*, uint64_t) {
  kDevice = c10::Device(kType, static_cast<c10::DeviceIndex>(index));
  static auto* const device = new Device;  // as a driver's: not destroyed
  (void)device;
  std::fprintf(stderr, "opened fake GPU %d\n", index);
  return ops::device_table(kType);
}

void properties_of_fake(int, ops::DevicePlugin::Properties* out) {
  std::snprintf(out->name, sizeof(out->name), "fake GPU");
  out->major = 9;
  out->memory_bytes = uint64_t{1} << 40;
  out->bf16 = out->fp8 = true;
}

}  // namespace
}  // namespace train_sft::fake_device

extern "C" const train_sft::ops::DevicePlugin* train_sft_device_plugin() {
  static train_sft::ops::DevicePlugin plugin;
  plugin.torch_version = TORCH_VERSION;
  plugin.device_count = train_sft::fake_device::count_fakes;
  plugin.open = train_sft::fake_device::open_fake;
  plugin.properties = train_sft::fake_device::properties_of_fake;
  return &plugin;
}

extern "C" c10d::Backend* train_sft_connect_devices(const c10::intrusive_ptr<c10d::Store>& store,
                                                    int rank, int size, int64_t) {
  return c10::make_intrusive<train_sft::fake_device::Transport>(store, rank, size).release();
}
