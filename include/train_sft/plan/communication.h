// What the processes of a run send each other in a step, and how much of the time that takes stands
// beside computation. Pure arithmetic: bandwidth only, as of rings that keep every link busy
// (Patarasuk and Yuan 2009); latency is left out.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "train_sft/config/model_config.h"
#include "train_sft/config/parameter_layout.h"

namespace train_sft {

struct Cluster {
  int64_t devices = 1;  // of each node; for a CPU, processes
  int64_t nodes = 1;

  int64_t ranks() const { return devices * nodes; }
};

// In one direction; 0: not known.
struct Links {
  double device_bytes_per_s = 0;  // from each device to the others of its node
  double node_bytes_per_s = 0;    // from each node to the others, all its adapters together
};

// Bytes that each rank sends for a buffer of so many.
double reduce_scatter_bytes(double bytes, int64_t ranks);  // (N − 1) / N of them
double all_gather_bytes(double bytes, int64_t ranks);      // as many
double all_reduce_bytes(double bytes, int64_t ranks);      // both

// Milliseconds until each rank has sent so many bytes around a ring, or around one ring a device
// with their share each: a node then sends as much to the next as a device does in all. The slower
// kind of link counts. None: the speed of a link that is used is not known.
std::optional<double> ring_ms(double sent_bytes, const Cluster& cluster, const Links& links);

// A range of the gradients, reduced when its part of the backward has ended.
struct GradientRange {
  double bytes = 0;
  double backward_work = 0;  // relative to the others'
};
// Those that a step reduces (train/gradient_reduction.h), in its order: from the head downward.
// `bytes` of each element.
std::vector<GradientRange> gradient_ranges(const ModelConfig& model, const ParameterLayout& layout,
                                           double bytes, int64_t least_numel);

// How long after a backward of so many milliseconds its last range is reduced, one after another.
double exposed_ms(const std::vector<GradientRange>& ranges, double backward_ms,
                  double reduction_ms);

struct CommunicationRequest {
  Cluster cluster;
  Links links;
  std::vector<GradientRange> ranges;
  bool sharded = false;         // --shard optimizer: reduce-scatter, then all-gather of the weights
  double gathered_bytes = 0;    // of the weights, when sharded
  double last_backward_ms = 0;  // of a step's last micro-batch, during which gradients are reduced
};
struct Communication {
  double sent_bytes = 0;       // a step, by each rank
  double node_sent_bytes = 0;  // by each node, to others
  std::optional<double> ms;    // if nothing else went on
  double exposed_ms = 0;       // what a step takes longer for it
};
Communication predict_communication(const CommunicationRequest& request);

}  // namespace train_sft
