#include "train/optimizer_shards.h"

#include <algorithm>
#include <cstdlib>

namespace train_sft {

ShardLimits shard_limits(const ParameterLayout& layout, int parts) {
  std::vector<int64_t> starts;  // of groups
  int64_t group = -1;
  for (const ParameterInfo& info : layout.parameters) {
    if (!info.trained() || info.group == group) continue;
    group = info.group;
    starts.push_back(info.trained_offset);
  }
  ShardLimits limits{0};
  for (int part = 1; part < parts; ++part) {
    const int64_t even = layout.trained_total / parts * part;
    int64_t nearest = layout.trained_total;
    for (const int64_t start : starts)
      if (std::abs(start - even) < std::abs(nearest - even)) nearest = start;
    limits.push_back(std::max(nearest, limits.back()));
  }
  limits.push_back(layout.trained_total);
  return limits;
}

ShardLimits limits_within(const ShardLimits& limits, int64_t first, int64_t numel) {
  ShardLimits within;
  for (const int64_t limit : limits) within.push_back(std::clamp<int64_t>(limit - first, 0, numel));
  return within;
}

std::vector<WeightRun> weight_runs(const ParameterLayout& layout, bool masters_apart) {
  std::vector<WeightRun> runs;
  for (const ParameterInfo& info : layout.parameters) {
    if (!info.trained()) continue;
    const int64_t at = masters_apart ? info.trained_offset : info.offset;
    const bool goes_on = !runs.empty() && info.trained_offset - runs.back().trained_offset ==
                                              at - runs.back().offset;
    if (!goes_on) runs.push_back({info.trained_offset, at, 0});
    runs.back().numel = info.trained_offset + info.numel - runs.back().trained_offset;
  }
  return runs;
}

bool shares_masters(const ParameterLayout& layout, bool masters_apart) {
  return masters_apart && std::none_of(layout.parameters.begin(), layout.parameters.end(),
                                       [](const ParameterInfo& info) { return info.adapter; });
}

OptimizerShards::OptimizerShards(Collective& collective, Parameters& parameters, bool shared)
    : collective_(collective), parameters_(parameters) {
  if (!shared || collective.size() == 1) return;
  limits_ = shard_limits(parameters.layout(), collective.size());
  const bool of_masters = parameters.masters_apart() && !parameters.masters_shared();
  runs_ = weight_runs(parameters.layout(), of_masters);
}

TrainedPart OptimizerShards::own() const {
  if (!shared()) return {0, parameters_.layout().trained_total};
  const auto rank = static_cast<size_t>(collective_.rank());
  return {limits_[rank], limits_[rank + 1]};
}

double OptimizerShards::share() const {
  return static_cast<double>(own().end - own().first) /
         static_cast<double>(parameters_.layout().trained_total);
}

double OptimizerShards::total(double sum_of_part) const {
  if (!shared()) return sum_of_part;
  double sum = 0;
  for (const auto& of : collective_.exchange_numbers({sum_of_part}, "gradient norm")) sum += of[0];
  return sum;
}

void OptimizerShards::gather_weights() const {
  if (!shared()) return;
  std::vector<std::unique_ptr<Collective::Pending>> started;
  const bool masters = !parameters_.masters_shared();
  const at::Tensor& weights = masters ? parameters_.master() : parameters_.compute();
  for (const WeightRun& run : runs_)
    started.push_back(collective_.all_gather(weights.narrow(0, run.offset, run.numel),
                                             limits_within(limits_, run.trained_offset, run.numel),
                                             "weights"));
  for (const auto& pending : started) pending->wait();
  if (masters) parameters_.refresh_compute();
}

}  // namespace train_sft
