// Adds up the gradients of all ranks, a range of layers as soon as its last backward has ended,
// while the layers below are still computed. In bfloat16 each rank's sums are rounded before they
// are sent, and the network's result is what all ranks go on with: half the bytes, the same bits
// everywhere. Behind them goes what 8-bit scales are made of, of which all take the largest.
#pragma once

#include <cstdint>
#include <limits>
#include <memory>
#include <vector>

#include "train_sft/collective/collective.h"
#include "train_sft/config/train_config.h"
#include "train_sft/model/parameters.h"

namespace train_sft {

// What a run of several processes reduces gradients in.
at::ScalarType reduce_type(const TrainConfig& config);

class GradientReduction {
 public:
  // Keeps references. With limits each rank gets the sums of its part alone. sent_in: float or
  // bfloat16.
  GradientReduction(Collective& collective, Parameters& parameters, ShardLimits limits = {},
                    at::ScalarType sent_in = at::kFloat);

  // Engine::fp8_amax(); undefined: none.
  void add_amax(const at::Tensor& amax) { amax_ = amax; }

  // Layers `layer` and above, and what stands on top of them, are final on this rank.
  void layer_done(int64_t layer);
  // Starts what is left. Every rank must come here once a step, whatever it has computed.
  void start_rest();
  // For all that was started.
  void wait();
  // Whether something was: it cannot be taken back.
  bool under_way() const { return !started_.empty(); }
  // Whether there is more than one, so that some can be on their way while layers are computed.
  bool can_overlap() const { return ranges_.size() > 1; }

  static constexpr const char* kAmaxName = "8-bit scales";
  // In the order in which they become final. Gaps between parameters are reduced with them.
  struct Range {
    int64_t offset = 0, numel = 0;  // of the gradients
    int64_t layer = 0;              // the lowest; kOnTop, kBelow beside the layers
  };
  static constexpr int64_t kOnTop = std::numeric_limits<int64_t>::max();  // final norm, head
  static constexpr int64_t kBelow = -1;                                   // embeddings
  // A range's elements at least: below some megabytes a message costs its latency.
  static constexpr int64_t kLeastNumel = int64_t{1} << 20;
  static std::vector<Range> ranges_of(const ParameterLayout& layout,
                                      int64_t least_numel = kLeastNumel);

 private:
  void start_next();
  void take_over(const Range& range);  // what was sent in bfloat16, into the gradients

  Collective& collective_;
  Parameters& parameters_;
  ShardLimits limits_;
  std::vector<Range> ranges_;
  at::Tensor rounded_;  // what is sent instead of the gradients; undefined: they are
  at::Tensor amax_;
  std::vector<std::unique_ptr<Collective::Pending>> started_;  // of ranges_
  std::unique_ptr<Collective::Pending> amax_started_;
};

}  // namespace train_sft
