// Adds up the gradients of all ranks, a range of layers as soon as its last backward has ended,
// while the layers below are still computed.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "train_sft/collective/collective.h"
#include "train_sft/model/parameters.h"

namespace train_sft {

class GradientReduction {
 public:
  // Keeps references. With limits each rank gets the sums of its part alone.
  GradientReduction(Collective& collective, Parameters& parameters, ShardLimits limits = {});

  // Layers `layer` and above, and what stands on top of them, are final on this rank.
  void layer_done(int64_t layer);
  // Starts what is left. Every rank must come here once a step, whatever it has computed.
  void start_rest();
  // For all that was started.
  void wait();

  // In the order in which they become final.
  struct Range {
    int64_t offset = 0, numel = 0;  // of the gradients
    int64_t layer = 0;              // the lowest; kOnTop, kBelow beside the layers
  };
  static std::vector<Range> ranges_of(const ParameterLayout& layout, int64_t least_numel);

 private:
  void start_next();

  Collective& collective_;
  Parameters& parameters_;
  ShardLimits limits_;
  std::vector<Range> ranges_;
  std::vector<std::unique_ptr<Collective::Pending>> started_;
};

}  // namespace train_sft
