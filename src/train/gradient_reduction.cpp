#include "train/gradient_reduction.h"

#include <ATen/ops/empty.h>

#include <algorithm>
#include <utility>

#include "train/optimizer_shards.h"

namespace train_sft {

at::ScalarType reduce_type(const TrainConfig& config) {
  return config.reduce_dtype == "bf16" ? at::kBFloat16 : at::kFloat;
}

std::vector<GradientReduction::Range> GradientReduction::ranges_of(const ParameterLayout& layout,
                                                                   int64_t least_numel) {
  // By buffer order, one for each layer and what stands below and on top.
  std::vector<Range> ascending;
  bool layers_seen = false;
  for (const ParameterInfo& info : layout.parameters) {
    layers_seen = layers_seen || info.layer >= 0;
    if (!info.trained()) continue;
    const int64_t layer = info.layer >= 0 ? info.layer : layers_seen ? kOnTop : kBelow;
    if (ascending.empty() || ascending.back().layer != layer)
      ascending.push_back({info.trained_offset, 0, layer});
    ascending.back().numel = info.trained_offset + info.numel - ascending.back().offset;
  }
  std::vector<Range> ranges;
  for (auto range = ascending.rbegin(); range != ascending.rend(); ++range) {
    if (!ranges.empty() && ranges.back().numel < least_numel) {
      Range& above = ranges.back();
      above = {range->offset, above.offset + above.numel - range->offset, range->layer};
    } else {
      ranges.push_back(*range);
    }
  }
  return ranges;
}

GradientReduction::GradientReduction(Collective& collective, Parameters& parameters,
                                     ShardLimits limits, at::ScalarType sent_in)
    : collective_(collective),
      parameters_(parameters),
      limits_(std::move(limits)),
      ranges_(ranges_of(parameters.layout())) {
  if (sent_in == at::kBFloat16 && collective.size() > 1)
    rounded_ = at::empty({parameters.layout().trained_total},
                         at::TensorOptions().dtype(sent_in).device(parameters.device()));
}

void GradientReduction::start_next() {
  const Range& range = ranges_[started_.size()];
  at::Tensor part = parameters_.gradients().narrow(0, range.offset, range.numel);
  if (rounded_.defined()) part = rounded_.narrow(0, range.offset, range.numel).copy_(part);
  if (limits_.empty())
    started_.push_back(collective_.all_reduce(part, "gradients"));
  else
    started_.push_back(collective_.reduce_scatter(
        part, limits_within(limits_, range.offset, range.numel), "gradients"));
}

void GradientReduction::layer_done(int64_t layer) {
  while (started_.size() < ranges_.size() && ranges_[started_.size()].layer >= layer) start_next();
}

void GradientReduction::start_rest() {
  while (started_.size() < ranges_.size()) start_next();
  if (amax_.defined()) amax_started_ = collective_.all_reduce_max(amax_, kAmaxName);
}

void GradientReduction::take_over(const Range& range) {
  int64_t first = 0, end = range.numel;
  if (!limits_.empty()) {
    const ShardLimits within = limits_within(limits_, range.offset, range.numel);
    const auto own = static_cast<size_t>(collective_.rank());
    first = within[own];
    end = within[own + 1];
  }
  const auto cut = [&](const at::Tensor& flat) {
    return flat.narrow(0, range.offset + first, end - first);
  };
  cut(parameters_.gradients()).copy_(cut(rounded_));
}

void GradientReduction::wait() {
  for (size_t i = 0; i < started_.size(); ++i) {
    started_[i]->wait();
    if (rounded_.defined()) take_over(ranges_[i]);
  }
  started_.clear();
  if (amax_started_) amax_started_->wait();
  amax_started_.reset();
}

}  // namespace train_sft
