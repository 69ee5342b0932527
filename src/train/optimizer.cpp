#include "train_sft/train/optimizer.h"

#include <ATen/ops/empty.h>
#include <ATen/ops/zeros.h>

#include <algorithm>
#include <cmath>
#include <cstddef>

#include "model/graph_cache.h"
#include "train_sft/base/error.h"
#include "train_sft/ops/adamw.h"
#include "train_sft/ops/device_table.h"
#include "train_sft/ops/zero.h"

namespace train_sft {

namespace {

constexpr int64_t kUpdateSize = sizeof(ops::DeviceUpdate) / sizeof(double);
constexpr int64_t kAligned = 16;  // floats, as parameters are

at::Tensor moments_of(const Parameters& parameters, int64_t count) {
  if (parameters.device().is_cpu()) return ops::zeros(count, parameters.master().scalar_type());
  return at::zeros({count}, parameters.master().options());
}

}  // namespace

OptimizerOptions optimizer_options(const TrainConfig& config) {
  OptimizerOptions options;
  options.beta1 = config.beta1;
  options.beta2 = config.beta2;
  options.eps = config.adam_eps;
  options.weight_decay = config.weight_decay;
  options.grad_clip = config.grad_clip;
  options.muon = config.optimizer == "muon";
  return options;
}

bool is_muons(const ParameterInfo& parameter) {
  return parameter.layer >= 0 && parameter.shape.size() == 2 && !parameter.adapter;
}

std::vector<ops::MuonShape> muon_matrices(const ParameterInfo& parameter) {
  const int64_t rows = parameter.shape[0], width = parameter.shape[1];
  const int64_t parts = parameter.name.ends_with("attn.c_attn.weight") ? 3 : 1;
  std::vector<ops::MuonShape> matrices;
  for (int64_t part = 0; part < parts; ++part)
    matrices.push_back({rows, width / parts, width, part * (width / parts)});
  return matrices;
}

MuonMemory muon_memory(const ParameterLayout& layout) {
  MuonMemory memory;
  for (const ParameterInfo& parameter : layout.parameters) {
    if (!parameter.trained() || !is_muons(parameter)) continue;
    memory.without_second_moment += parameter.numel;
    for (const ops::MuonShape& shape : muon_matrices(parameter))
      memory.scratch = std::max(memory.scratch, ops::muon_scratch(shape));
  }
  return memory;
}

Optimizer::Optimizer(Parameters& parameters, const OptimizerOptions& options)
    : Optimizer(parameters, options, {0, parameters.layout().trained_total}) {}

Optimizer::Optimizer(Parameters& parameters, const OptimizerOptions& options, TrainedPart part)
    : parameters_(parameters),
      options_(options),
      part_(part),
      exp_avg_(moments_of(parameters, part.end - part.first)) {
  if (!parameters.device().is_cpu()) {
    device_update_ = at::zeros({kUpdateSize + 1}, parameters.master().options().dtype(at::kDouble));
    graphs_ = std::make_unique<GraphCache>(ops::device_table(device_update_), 1);
  }
  // The gaps between parameters hold zeros with zero gradients: an update leaves them zero, so a
  // range may run across them, as long as nothing frozen lies between.
  size_t matrices_before = 0;  // a range does not run across a matrix
  for (const auto& parameter : parameters.layout().parameters) {
    if (!updates(parameter)) continue;
    if (!has_second_moment(parameter)) {
      add_matrices(parameter);
      continue;
    }
    const bool goes_on = !ranges_.empty() && matrices_.size() == matrices_before &&
                         ranges_.back().decay == parameter.decay &&
                         parameter.offset - ranges_.back().offset ==
                             parameter.trained_offset - ranges_.back().trained_offset;
    if (!goes_on)
      ranges_.push_back({parameter.offset, parameter.trained_offset,
                         parameters.master_offset(parameter), 0, parameter.decay});
    ranges_.back().numel =
        parameter.trained_offset + parameter.numel - ranges_.back().trained_offset;
    matrices_before = matrices_.size();
  }
  exp_avg_sq_ = moments_of(parameters, place_second_moments());
  int64_t scratch = 0;
  for (const Matrix& matrix : matrices_)
    scratch = std::max(scratch, ops::muon_scratch(matrix.shape));
  if (scratch == 0) return;
  scratch_ = at::empty({scratch}, device_update_.defined() ? parameters.compute().options()
                                                           : at::TensorOptions(at::kFloat));
}

Optimizer::~Optimizer() = default;

void Optimizer::add_matrices(const ParameterInfo& parameter) {
  for (const ops::MuonShape& shape : muon_matrices(parameter))
    matrices_.push_back(
        {parameter.offset, parameter.trained_offset, parameters_.master_offset(parameter), shape});
}

// Where Muon has no second moment there is no place for one. Returns how many elements there are.
int64_t Optimizer::place_second_moments() {
  if (!options_.muon) {
    for (Range& range : ranges_) range.second_offset = range.trained_offset - part_.first;
    return part_.end - part_.first;
  }
  int64_t total = 0;
  for (Range& range : ranges_) {
    range.second_offset = total;
    total += (range.numel + kAligned - 1) / kAligned * kAligned;
  }
  return total;
}

Optimizer::Views Optimizer::views(const Matrix& matrix) {
  const auto cut = [&](const at::Tensor& flat, int64_t offset) {
    return flat.narrow(0, offset, matrix.shape.rows * matrix.shape.stride);
  };
  return {cut(parameters_.master(), matrix.master_offset),
          parameters_.masters_apart() ? cut(parameters_.compute(), matrix.offset) : at::Tensor(),
          cut(parameters_.gradients(), matrix.trained_offset),
          cut(exp_avg_, matrix.trained_offset - part_.first),
          {}};
}

void Optimizer::muon(double lr, double grad_scale) {
  ops::MuonStep update;
  update.lr = lr;
  update.weight_decay = options_.weight_decay;
  update.grad_scale = grad_scale;
  for (const Matrix& matrix : matrices_) {
    const Views v = views(matrix);
    ops::muon(v.master, v.compute, v.grad, v.exp_avg, scratch_, matrix.shape, update);
  }
}

void Optimizer::device_muon() {
  const ops::DeviceTable* device = ops::device_table(device_update_);
  const auto* update = static_cast<const ops::DeviceUpdate*>(device_update_.const_data_ptr());
  double* squares = static_cast<double*>(device_update_.mutable_data_ptr()) + kUpdateSize;
  ops::MuonStep step;
  step.weight_decay = options_.weight_decay;
  for (const Matrix& matrix : matrices_) {
    const Views v = views(matrix);
    ops::muon_on_device(*device, v.master, v.compute, v.grad, v.exp_avg, scratch_, squares,
                        matrix.shape, update, step);
  }
}

Optimizer::Result Optimizer::step(double lr, double denominator) {
  Result result;
  result.grad_norm = grad_norm(denominator);
  if (!std::isfinite(result.grad_norm)) return result;
  update(lr, denominator, result.grad_norm);
  result.applied = true;
  return result;
}

double Optimizer::grad_norm(double denominator) const {
  TRAIN_SFT_CHECK(denominator > 0, "a step with denominator {}", denominator);
  return std::sqrt(sum_of_squares()) / denominator;
}

double Optimizer::sum_of_squares() const {
  const at::Tensor gradients =
      parameters_.gradients().narrow(0, part_.first, part_.end - part_.first);
  const ops::DeviceTable* device = ops::device_table(gradients);
  if (device == nullptr) return ops::sum_of_squares(gradients);
  const at::Tensor place = device_update_.narrow(0, kUpdateSize, 1);  // nothing is allocated here
  auto* sum = static_cast<double*>(place.mutable_data_ptr());
  device->zero(place);
  device->sum_of_squares(sum, gradients);
  double total = 0;
  device->download_end(device->download_begin(sum, sizeof(total)), &total, sizeof(total));
  return total;
}

at::Tensor Optimizer::first_moment(const ParameterInfo& parameter) const {
  return exp_avg_.narrow(0, parameter.trained_offset - part_.first, parameter.numel)
      .view(parameter.shape);
}

at::Tensor Optimizer::second_moment(const ParameterInfo& parameter) const {
  for (const Range& range : ranges_) {
    const int64_t within = parameter.trained_offset - range.trained_offset;
    if (within >= 0 && within < range.numel)
      return exp_avg_sq_.narrow(0, range.second_offset + within, parameter.numel)
          .view(parameter.shape);
  }
  throw InternalError("'{}' has no second moment here", parameter.name);
}

void Optimizer::update(double lr, double denominator, double grad_norm) {
  double clip = 1.0;
  if (options_.grad_clip > 0)  // as torch.nn.utils.clip_grad_norm_
    clip = std::min(1.0, options_.grad_clip / (grad_norm + 1e-6));
  ++t;
  const ops::AdamWStep pass = adamw_step(lr, clip / denominator);
  if (device_update_.defined()) {
    upload(pass);
    device_adamw(ranges_);
    return device_muon();
  }
  adamw(pass);
  muon(pass.lr, pass.grad_scale);
}

// What was decided here, for the device's kernels.
void Optimizer::upload(const ops::AdamWStep& pass) {
  ops::DeviceUpdate update;
  update.lr = pass.lr;
  update.t = static_cast<double>(t);
  update.grad_scale = pass.grad_scale;
  update.bias_correction1 = pass.bias_correction1;
  update.bias_correction2 = pass.bias_correction2;
  ops::device_table(device_update_)
      ->upload(device_update_.mutable_data_ptr(), &update, sizeof(update));
}

uint64_t Optimizer::queue_update(ops::DeviceSums* sums, const ops::DeviceUpdate& of_this_step,
                                 bool t_is_known, const std::vector<WeightAmax>& weights) {
  const ops::DeviceTable* device = ops::device_table(device_update_);
  auto* update = static_cast<ops::DeviceUpdate*>(device_update_.mutable_data_ptr());
  ops::DeviceUpdate given = of_this_step;
  given.t = static_cast<double>(t);
  device->upload(update, &given,
                 t_is_known ? offsetof(ops::DeviceUpdate, skip) : offsetof(ops::DeviceUpdate, t));
  if (sums_ != sums) graphs_->clear();
  sums_ = sums;
  const at::Tensor gradients =
      parameters_.gradients().narrow(0, part_.first, part_.end - part_.first);
  graphs_->run({}, [&] {
    device->sum_of_squares(&sums->sum_of_squares, gradients);
    device->prepare_update(update, sums, settings());
    device_adamw(cut_at(weights));
    device_muon();
  });
  return device->download_begin(update, sizeof(*update));
}

namespace {

// Of [first, first + numel): all, a part or nothing in [offset, …).
enum class Overlap { none, part, whole };
Overlap overlap(const WeightAmax& weight, int64_t offset, int64_t numel) {
  const int64_t end = weight.offset + weight.numel;
  if (weight.offset >= offset && end <= offset + numel) return Overlap::whole;
  return end <= offset || weight.offset >= offset + numel ? Overlap::none : Overlap::part;
}

}  // namespace

bool Optimizer::covers(const std::vector<WeightAmax>& weights) const {
  if (!matrices_.empty()) return false;  // Muon's
  for (const WeightAmax& weight : weights)
    for (const Range& range : ranges_)
      if (overlap(weight, range.offset, range.numel) == Overlap::part) return false;
  return true;
}

std::vector<Optimizer::Range> Optimizer::cut_at(const std::vector<WeightAmax>& weights) const {
  std::vector<Range> pieces;
  for (const Range& range : ranges_) {
    int64_t at = 0;
    const auto cut_to = [&](int64_t end, const at::Tensor& amax) {
      if (end > at)
        pieces.push_back({range.offset + at, range.trained_offset + at, range.master_offset + at,
                          end - at, range.decay, range.second_offset + at, amax});
      at = end;
    };
    for (const WeightAmax& weight : weights) {  // in the order of the buffer
      if (overlap(weight, range.offset, range.numel) != Overlap::whole) continue;
      cut_to(weight.offset - range.offset, {});
      cut_to(weight.offset - range.offset + weight.numel, weight.amax);
    }
    cut_to(range.numel, {});
  }
  return pieces;
}

ops::DeviceUpdate Optimizer::fetch_update(uint64_t ticket) {
  ops::DeviceUpdate result;
  ops::device_table(device_update_)->download_end(ticket, &result, sizeof(result));
  t = static_cast<int64_t>(result.t);
  return result;
}

void Optimizer::copy_moments(const Optimizer& other) {
  exp_avg_.copy_(other.exp_avg_);
  exp_avg_sq_.copy_(other.exp_avg_sq_);
  t = other.t;
}

Optimizer Optimizer::of(Parameters& host) const {
  return Optimizer(host, options_, part_);
}

ops::UpdateSettings Optimizer::settings() const {
  return {options_.beta1, options_.beta2, options_.eps, options_.grad_clip};
}

Optimizer::Views Optimizer::views(const Range& range) {
  const auto cut = [&](const at::Tensor& flat, int64_t offset) {
    return flat.narrow(0, offset, range.numel);
  };
  return {cut(parameters_.master(), range.master_offset),
          parameters_.masters_apart() ? cut(parameters_.compute(), range.offset) : at::Tensor(),
          cut(parameters_.gradients(), range.trained_offset),
          cut(exp_avg_, range.trained_offset - part_.first), cut(exp_avg_sq_, range.second_offset)};
}

void Optimizer::device_adamw(const std::vector<Range>& ranges) {
  const ops::DeviceTable* device = ops::device_table(device_update_);
  const auto* update = static_cast<const ops::DeviceUpdate*>(device_update_.const_data_ptr());
  for (const Range& range : ranges) {
    const Views v = views(range);
    device->adamw(v.master, v.compute, v.grad, v.exp_avg, v.exp_avg_sq, range.amax, update,
                  settings(), range.decay ? options_.weight_decay : 0.0);
  }
}

ops::AdamWStep Optimizer::adamw_step(double lr, double grad_scale) const {
  ops::AdamWStep pass;
  pass.lr = lr;
  pass.beta1 = options_.beta1;
  pass.beta2 = options_.beta2;
  pass.eps = options_.eps;
  pass.bias_correction1 = 1.0 - std::pow(options_.beta1, static_cast<double>(t));
  pass.bias_correction2 = 1.0 - std::pow(options_.beta2, static_cast<double>(t));
  pass.grad_scale = grad_scale;
  return pass;
}

void Optimizer::adamw(ops::AdamWStep pass) {
  for (const Range& range : ranges_) {
    const Views v = views(range);
    pass.weight_decay = range.decay ? options_.weight_decay : 0.0;
    ops::adamw(v.master, v.compute, v.grad, v.exp_avg, v.exp_avg_sq, pass);
  }
}

}  // namespace train_sft
