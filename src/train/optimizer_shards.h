// With --shard optimizer each process keeps the moments of a part of the parameters, beside
// bfloat16 their masters too, and updates that part alone (ZeRO stage 1, Rajbhandari et al. 2020):
// gradients are scattered to the parts as they are summed, updated weights gathered.
#pragma once

#include <cstdint>
#include <vector>

#include "train_sft/collective/collective.h"
#include "train_sft/train/optimizer.h"

namespace train_sft {

// The limits of `parts` parts of what is trained, as even as whole parameters allow. Parameters
// that serve as one matrix stay together.
ShardLimits shard_limits(const ParameterLayout& layout, int parts);
// Those of [first, first + numel), counted from first.
ShardLimits limits_within(const ShardLimits& limits, int64_t first, int64_t numel);

// Neighbouring weights that are gathered as one. Masters stand where the whole model's parameters
// do, or in a buffer of what is trained alone; in the first case frozen ones may lie between.
struct WeightRun {
  int64_t trained_offset = 0, offset = 0, numel = 0;
};
std::vector<WeightRun> weight_runs(const ParameterLayout& layout, bool masters_apart);
// Whether masters are shared out with the moments: where a copy in bfloat16 stands beside them,
// which is then what is gathered. Not of adapters: they are small, and checkpoints hold them as
// masters.
bool shares_masters(const ParameterLayout& layout, bool masters_apart);

class OptimizerShards {
 public:
  // Keeps references. Not shared: every process updates everything.
  OptimizerShards(Collective& collective, Parameters& parameters, bool shared);

  bool shared() const { return !limits_.empty(); }
  const ShardLimits& limits() const { return limits_; }  // empty unless shared
  TrainedPart own() const;
  double share() const;  // of what is trained that is this process's
  // Of each part's sum the whole's.
  double total(double sum_of_part) const;
  // After an update: every part's weights to all.
  void gather_weights() const;

 private:
  Collective& collective_;
  Parameters& parameters_;
  ShardLimits limits_;
  std::vector<WeightRun> runs_;
};

}  // namespace train_sft
