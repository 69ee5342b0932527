// What a step calls of the Collective, in order, worked out from sizes and settings alone. `plan`
// says it; a test holds it against the calls that steps make.
#pragma once

#include <ATen/core/ScalarType.h>

#include <cstdint>
#include <string>
#include <vector>

#include "train_sft/config/parameter_layout.h"

namespace train_sft {

struct StepCall {
  std::string call;    // all_reduce, reduce_scatter, all_gather, exchange
  std::string name;    // as the Collective is told
  uint64_t bytes = 0;  // of the buffer, on each rank
  // What has just ended on this rank when it starts: the backward of the step's last micro-batch
  // down to "head" or "layer 3", with those below still to come; "backward", all of it;
  // "reduction", of the gradients; "update".
  std::string after;
};

// Of a step that updates. sharded: --shard optimizer. masters_apart: beside bfloat16.
std::vector<StepCall> step_calls(const ParameterLayout& layout, bool sharded, bool masters_apart,
                                 at::ScalarType reduced_in);

}  // namespace train_sft
