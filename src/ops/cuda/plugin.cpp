// What the program finds in libtrain_sft_cuda.so.
#include <c10/util/Exception.h>
#include <torch/headeronly/version.h>

#include "ops/cuda/launch.h"
#include "ops/cuda/runtime.h"

namespace train_sft::ops::cuda {
namespace {

void add_squares(double* sum, const at::Tensor& flat) {
  sum_of_squares(sum, floats(flat, flat.numel()), flat.numel(), runtime().workspace,
                 runtime().stream);
  check_launch();
}

void prepare(DeviceUpdate* update, DeviceSums* sums, const UpdateSettings& settings) {
  prepare_update(update, sums, settings, runtime().stream);
  check_launch();
}

void update_range(const at::Tensor& master, const at::Tensor& compute, const at::Tensor& grad,
                  const at::Tensor& exp_avg, const at::Tensor& exp_avg_sq, const at::Tensor& amax,
                  const DeviceUpdate* update, const UpdateSettings& settings, double weight_decay) {
  const int64_t n = master.numel();
  const Type type = compute.defined() ? type_of(compute) : Type::f32;
  AdamW step{};
  step.master = floats(master, n);
  step.compute = compute.defined() ? data(compute, compute.scalar_type(), n) : nullptr;
  step.grad = floats(grad, n);
  step.exp_avg = floats(exp_avg, n);
  step.exp_avg_sq = floats(exp_avg_sq, n);
  step.count = n;
  step.update = update;
  step.settings = settings;
  step.weight_decay = weight_decay;
  step.amax = floats_or_null(amax, 1);
  TORCH_CHECK(step.amax == nullptr || step.compute != nullptr, "amax of nothing that is written");
  adamw(type, step, runtime().stream);
  check_launch();
}

const DeviceTable* open(int device, char* why, uint64_t size) {
  if (!open_device(device, why, size)) return nullptr;
  static DeviceTable table;
  fill_runtime(table);
  fill_elementwise(table);
  fill_attention(table);
  fill_products(table);
  fill_update(table);
  return &table;
}

}  // namespace

void fill_update(DeviceTable& table) {
  table.sum_of_squares = add_squares;
  table.prepare_update = prepare;
  table.adamw = update_range;
}

}  // namespace train_sft::ops::cuda

extern "C" __attribute__((visibility("default"))) const train_sft::ops::DevicePlugin*
train_sft_device_plugin() {
  namespace cuda = train_sft::ops::cuda;
  static const train_sft::ops::DevicePlugin plugin = [] {
    train_sft::ops::DevicePlugin made;
    made.torch_version = TORCH_VERSION;
    made.device_count = cuda::device_count;
    made.open = cuda::open;
    made.properties = cuda::device_properties;
    return made;
  }();
  return &plugin;
}
