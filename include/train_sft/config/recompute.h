// What of a layer's forward is computed again before its backward instead of being kept: memory for
// time (Chen et al. 2016, "Training deep nets with sublinear memory cost"). Losses and gradients
// are the same to the bit.
#pragma once

#include <string>

namespace train_sft {

enum class Recompute {
  none,
  attention,  // the first norm, q, k, v and attention; what the feed-forward made is kept
  block,      // everything: only the residual stream that enters a layer is kept
};

// "none", "attention", "block": the option table admits no other.
Recompute parse_recompute(const std::string& name);

}  // namespace train_sft
