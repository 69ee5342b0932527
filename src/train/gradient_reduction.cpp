#include "train/gradient_reduction.h"

#include <algorithm>
#include <limits>
#include <utility>

#include "train/optimizer_shards.h"

namespace train_sft {
namespace {

// A range's elements at least: below some megabytes a message costs its latency.
constexpr int64_t kLeastNumel = int64_t{1} << 20;

constexpr int64_t kOnTop = std::numeric_limits<int64_t>::max();  // final norm, head
constexpr int64_t kBelow = -1;                                   // embeddings

}  // namespace

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
                                     ShardLimits limits)
    : collective_(collective),
      parameters_(parameters),
      limits_(std::move(limits)),
      ranges_(ranges_of(parameters.layout(), kLeastNumel)) {}

void GradientReduction::start_next() {
  const Range& range = ranges_[started_.size()];
  const at::Tensor part = parameters_.gradients().narrow(0, range.offset, range.numel);
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
}

void GradientReduction::wait() {
  for (const auto& pending : started_) pending->wait();
  started_.clear();
}

}  // namespace train_sft
