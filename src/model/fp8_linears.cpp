#include "model/fp8_linears.h"

#include <ATen/ops/empty.h>
#include <ATen/ops/full.h>
#include <ATen/ops/zeros.h>

#include <algorithm>

#include "train_sft/base/error.h"

namespace train_sft {
namespace {

std::vector<ops::Fp8Format> formats_of_values(int64_t count, const Fp8Options& options) {
  std::vector<ops::Fp8Format> formats;
  for (int64_t i = 0; i < count; ++i) {
    formats.push_back(ops::Fp8Format::e4m3);
    formats.push_back(options.e5m2_gradients ? ops::Fp8Format::e5m2 : ops::Fp8Format::e4m3);
  }
  return formats;
}

LinearWeights& linear_of(LayerWeights& layer, BlockLinear kind) {
  switch (kind) {
    case BlockLinear::qkv:
      return layer.qkv;
    case BlockLinear::proj:
      return layer.proj;
    case BlockLinear::up:
      return layer.up;
    default:
      return layer.down;
  }
}

}  // namespace

std::vector<at::Tensor> number_fp8(ModelWeights& weights, const std::vector<Fp8Linear>& linears) {
  std::vector<at::Tensor> numbered;
  for (const Fp8Linear& linear : linears) {
    LinearWeights& of = linear_of(weights.layers[static_cast<size_t>(linear.block)], linear.kind);
    of.fp8 = static_cast<int64_t>(numbered.size());
    numbered.push_back(of.weight);
  }
  return numbered;
}

Fp8Scales::Fp8Scales(const std::vector<ops::Fp8Format>& formats, int64_t steps, double margin,
                     c10::Device device)
    : margin_(margin) {
  TRAIN_SFT_CHECK(steps >= 1, "a history of {} steps", steps);
  const auto count = static_cast<int64_t>(formats.size());
  const auto options = at::TensorOptions().dtype(at::kFloat).device(device);
  history = at::zeros({count, steps}, options);
  amax = at::zeros({count}, options);
  scale = at::full({count}, 1.0, options);
  scale_inverse_ = at::full({count}, 1.0, options);
  at::Tensor largest = at::empty({count}, at::kFloat);
  for (int64_t i = 0; i < count; ++i)
    largest.mutable_data_ptr<float>()[i] = ops::fp8_largest(formats[static_cast<size_t>(i)]);
  largest_ = at::empty({count}, options).copy_(largest);
  for (int64_t i = 0; i < count; ++i)
    slots_.push_back({history.narrow(0, i, 1), amax.narrow(0, i, 1), scale.narrow(0, i, 1),
                      scale_inverse_.narrow(0, i, 1), largest_.narrow(0, i, 1),
                      formats[static_cast<size_t>(i)]});
}

void Fp8Scales::find(const Slot& slot, const at::Tensor& tensor) const {
  ops::fp8_amax(slot.amax, tensor);
  update(slot);
}

void Fp8Scales::update(const Slot& slot) const {
  ops::fp8_update_scales(slot.history, slot.amax, slot.scale, slot.scale_inverse, slot.largest,
                         margin_);
}

void Fp8Scales::update_all() const {
  ops::fp8_update_scales(history, amax, scale, scale_inverse_, largest_, margin_);
}

void Fp8Scales::take_scales_of(const Fp8Scales& other) const {
  scale.copy_(other.scale);
  scale_inverse_.copy_(other.scale_inverse_);
}

void Fp8Scales::restored() const {
  const at::Tensor host = at::empty(scale.sizes(), at::kFloat).copy_(scale);
  float* values = host.mutable_data_ptr<float>();
  for (int64_t i = 0; i < host.numel(); ++i) values[i] = 1 / values[i];
  scale_inverse_.copy_(host);
  amax.zero_();
}

Fp8Linears::Fp8Linears(const std::vector<at::Tensor>& weights, const Fp8Options& options)
    : options_(options),
      values_(formats_of_values(static_cast<int64_t>(weights.size()), options), options.history,
              options.margin, weights.front().device()),
      found_(formats_of_values(static_cast<int64_t>(weights.size()), options), 1, options.margin,
             weights.front().device()),
      weights_(std::vector(weights.size(), ops::Fp8Format::e4m3), 1, 0, weights.front().device()),
      scratch_(2) {
  const auto bytes = at::TensorOptions().dtype(at::kByte).device(weights.front().device());
  for (at::Tensor& room : scratch_) room = at::empty({0}, bytes);
  for (const at::Tensor& weight : weights)
    rounded_weights_.push_back({at::empty({weight.size(0), weight.size(1)}, bytes),
                                at::empty({weight.size(1), weight.size(0)}, bytes),
                                weight.storage_offset()});
}

// An update that was skipped raised nothing: then the scale stays, as the weight did.
void Fp8Linears::round_weight(int64_t linear, const at::Tensor& weight) {
  const auto& slot = weights_.slot(static_cast<size_t>(linear));
  if (weights_are_known_)
    weights_.update(slot);
  else
    weights_.find(slot, weight);
  const RoundedWeight& to = rounded_weights_[static_cast<size_t>(linear)];
  ops::fp8_quantize(to.values, to.turned, {}, weight, slot.scale, slot.format);
}

std::vector<WeightAmax> Fp8Linears::weight_amax() const {
  std::vector<WeightAmax> all;
  for (size_t i = 0; i < rounded_weights_.size(); ++i)
    all.push_back(
        {rounded_weights_[i].offset, rounded_weights_[i].values.numel(), weights_.slot(i).amax});
  std::sort(all.begin(), all.end(),
            [](const WeightAmax& x, const WeightAmax& y) { return x.offset < y.offset; });
  return all;
}

at::Tensor Fp8Linears::room(size_t place, int64_t rows, int64_t columns) {
  at::Tensor& room = scratch_[place];
  if (room.numel() < rows * columns) {
    const at::TensorOptions options = room.options();
    room = at::Tensor();
    room = at::empty({rows * columns}, options);
    ++moves_;
  }
  return room.narrow(0, 0, rows * columns).view({rows, columns});
}

void Fp8Linears::find_scale(size_t value, const at::Tensor& tensor) {
  found_.find(found_.slot(value), tensor);
}

ops::Fp8Operand Fp8Linears::rounded(const at::Tensor& tensor, size_t value, bool transposed,
                                    size_t place) {
  const int64_t rows = tensor.size(0), columns = tensor.size(1);
  const at::Tensor to = transposed ? room(place, columns, rows) : room(place, rows, columns);
  const auto& slot = finds_scales() ? found_.slot(value) : values_.slot(value);
  ops::fp8_quantize(transposed ? at::Tensor() : to, transposed ? to : at::Tensor(),
                    remembers() ? values_.slot(value).amax : at::Tensor(), tensor, slot.scale,
                    slot.format);
  return {to, slot.scale_inverse, slot.format};
}

void Fp8Linears::forward(const at::Tensor& out, const at::Tensor& input, const at::Tensor& weight,
                         const at::Tensor& bias, ops::WeightLayout layout, int64_t linear) {
  if (finds_scales()) find_scale(input_of(linear), input);
  if (!weights_are_rounded_) round_weight(linear, weight);
  const ops::Fp8Operand x = rounded(input, input_of(linear), false, 0);
  const ops::Fp8Operand w = weight_operand(linear, layout == ops::WeightLayout::in_out);
  ops::fp8_matmul(out, x, w, bias, false);
}

// The gradient's scale was found when the weight's gradient was computed, which comes first, or is
// found here.
void Fp8Linears::backward_input(const at::Tensor& grad_input, const at::Tensor& grad_out,
                                ops::WeightLayout layout, int64_t linear) {
  if (finds_scales()) find_scale(gradient_of(linear), grad_out);
  const ops::Fp8Operand dy = rounded(grad_out, gradient_of(linear), false, 0);
  const ops::Fp8Operand w = weight_operand(linear, layout == ops::WeightLayout::out_in);
  ops::fp8_matmul(grad_input, dy, w, {}, false);
}

void Fp8Linears::backward_weight(const at::Tensor& grad_weight, const at::Tensor& input,
                                 const at::Tensor& grad_out, ops::WeightLayout layout,
                                 int64_t linear) {
  if (!options_.weight_gradient)
    return ops::linear_backward_weight(grad_weight, input, grad_out, layout);
  if (finds_scales()) find_scale(gradient_of(linear), grad_out);
  const ops::Fp8Operand x = rounded(input, input_of(linear), true, 0);
  const ops::Fp8Operand dy = rounded(grad_out, gradient_of(linear), true, 1);
  if (layout == ops::WeightLayout::out_in)
    ops::fp8_matmul(grad_weight, dy, x, {}, true);
  else
    ops::fp8_matmul(grad_weight, x, dy, {}, true);
}

void Fp8Linears::end_step(bool weights_known) {
  // With current scaling those of values_ never change: the next step does not depend on this one.
  remembers() ? values_.update_all() : found_.take_scales_of(values_);
  calibrated_ = true;
  weights_are_rounded_ = false;
  weights_are_known_ = weights_known;
}

std::vector<std::pair<std::string, at::Tensor>> Fp8Linears::state() const {
  return {{"fp8/history", values_.history}, {"fp8/scale", values_.scale}};
}

void Fp8Linears::restored() {
  values_.restored();
  weights_.restored();
  found_.take_scales_of(values_);
  calibrated_ = true;
  weights_are_rounded_ = weights_are_known_ = false;
}

}  // namespace train_sft
