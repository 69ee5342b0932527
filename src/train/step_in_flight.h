// A step that a device works on and whose result is not known yet.
#pragma once

#include <cstdint>

namespace train_sft {

struct StepInFlight {
  uint64_t ticket = 0;  // Optimizer::fetch_update
  double lr = 0;
  double weight = 0;  // Σ weights
  int64_t tokens = 0, examples = 0;
  double data_wait_ms = 0;
  bool save_asked = false;
};

}  // namespace train_sft
