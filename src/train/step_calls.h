// What a step calls of the Collective, in order, worked out from sizes and settings alone. `plan`
// says it; a test holds it against the calls that steps make.
#pragma once

#include <ATen/core/ScalarType.h>

#include <cstdint>
#include <string>
#include <vector>

#include "train_sft/config/parameter_layout.h"
#include "train_sft/config/train_config.h"

namespace train_sft {

struct StepCall {
  std::string call;    // all_reduce, all_reduce_max, reduce_scatter, all_gather, exchange
  std::string name;    // as the Collective is told
  uint64_t bytes = 0;  // of the buffer, on each rank
  // What has just ended on this rank when it starts: the backward of the step's last micro-batch
  // down to "head" or "layer 3", with those below still to come; "backward", all of it;
  // "reduction", of the gradients; "update".
  std::string after;
};

// How many largest magnitudes the ranks bring together each step: of every 8-bit layer its input
// and its gradient, with delayed scaling.
int64_t amax_count(const ModelConfig& model, const TrainConfig& config,
                   const std::string& precision);

// Of a step that updates. sharded: --shard optimizer. masters_apart: beside bfloat16. amax:
// amax_count().
std::vector<StepCall> step_calls(const ParameterLayout& layout, bool sharded, bool masters_apart,
                                 at::ScalarType reduced_in, int64_t amax);

}  // namespace train_sft
