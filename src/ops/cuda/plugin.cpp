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

MuonMatrix matrix_of(const MuonShape& shape) {
  TORCH_CHECK(shape.first_column + shape.columns <= shape.stride, "columns ", shape.first_column,
              " … of ", shape.stride);
  return {shape.rows, shape.columns, shape.stride, shape.first_column};
}

MuonMoments moments_of(const at::Tensor& momentum, const at::Tensor& grad, double* squares,
                       const MuonShape& shape, double mu, const DeviceUpdate* update) {
  const int64_t whole = shape.rows * shape.stride;
  return {floats(momentum, whole), floats(grad, whole), squares, matrix_of(shape), mu, update};
}

void momentum_of_muon(const at::Tensor& momentum, double* squares, const at::Tensor& grad,
                      const MuonShape& shape, double mu, const DeviceUpdate* update) {
  muon_momentum(moments_of(momentum, grad, squares, shape, mu, update), runtime().workspace,
                runtime().stream);
  check_launch();
}

void unit_of_muon(const at::Tensor& x, const at::Tensor& momentum, const at::Tensor& grad,
                  const double* squares, const MuonShape& shape, double mu,
                  const DeviceUpdate* update) {
  muon_unit(type_of(x), data(x, x.scalar_type(), shape.rows * shape.columns),
            moments_of(momentum, grad, const_cast<double*>(squares), shape, mu, update),
            runtime().stream);
  check_launch();
}

void apply_muon(const at::Tensor& master, const at::Tensor& compute, const at::Tensor& x,
                const MuonShape& shape, double size, double weight_decay,
                const DeviceUpdate* update) {
  const int64_t whole = shape.rows * shape.stride;
  const at::ScalarType scalar = compute.defined() ? compute.scalar_type() : at::kFloat;
  MuonResult result{};
  result.master = floats(master, whole);
  result.compute = data_or_null(compute, scalar, whole);
  result.x = data(x, scalar, shape.rows * shape.columns);
  result.matrix = matrix_of(shape);
  result.size = size;
  result.weight_decay = weight_decay;
  result.update = update;
  muon_apply(type_of(x), result, runtime().stream);
  check_launch();
}

void scale_and_shift(const at::Tensor& out, const at::Tensor& in, double scale, double shift) {
  const int64_t n = out.size(0);
  scale_shift(type_of(out), data(out, out.scalar_type(), n * n), data(in, out.scalar_type(), n * n),
              n, static_cast<float>(scale), static_cast<float>(shift), runtime().stream);
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
  table.muon_momentum = momentum_of_muon;
  table.muon_unit = unit_of_muon;
  table.muon_apply = apply_muon;
  table.scale_shift = scale_and_shift;
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
