#include "train_sft/ops/zero.h"

#include <ATen/ops/from_blob.h>

#include <algorithm>
#include <cstring>

#include "ops/threads.h"
#include "train_sft/base/error.h"
#include "train_sft/base/memory.h"
#include "train_sft/base/profile.h"
#include "train_sft/base/progress.h"
#include "train_sft/ops/device_table.h"

namespace train_sft::ops {
namespace {

struct Bytes {
  char* begin;
  size_t count;
};

}  // namespace

void zero(const at::Tensor& tensor) {
  const profile::Scope scope("zero gradients");
  TRAIN_SFT_CHECK(tensor.is_contiguous(), "tensor is not contiguous");
  if (const DeviceTable* device = device_table(tensor)) return device->zero(tensor);
  constexpr size_t kPage = 4096, kWorthwhile = size_t{1} << 18;
  Bytes bytes{static_cast<char*>(tensor.data_ptr()), tensor.nbytes()};
  auto work = [](void* context, int thread, int threads) {
    const Bytes& all = *static_cast<const Bytes*>(context);
    const size_t part = (all.count / threads + kPage) / kPage * kPage;
    const size_t begin = std::min(all.count, part * thread);
    std::memset(all.begin + begin, 0, std::min(part, all.count - begin));
  };
  run_on_threads(bytes.count < kWorthwhile ? 1 : available_threads(), work, &bytes);
}

at::Tensor zeros(int64_t numel, at::ScalarType dtype) {
  const uint64_t bytes = static_cast<uint64_t>(numel) * c10::elementSize(dtype);
  void* begin = allocate_zero_pages(bytes);
  if (begin == nullptr)
    throw ResourceError("the machine has no {} for the model; use a smaller one",
                        human_bytes(static_cast<double>(bytes)));
  return at::from_blob(begin, {numel}, &free_pages, at::TensorOptions(dtype));
}

}  // namespace train_sft::ops
