// --profile: where the time of the run's steps went, op by op.
#pragma once

#include <cstdint>

#include "train/step.h"

namespace train_sft {

class StepProfile {
 public:
  explicit StepProfile(bool wanted) : wanted_(wanted) {}

  // Steps after the first of the process: that one also touches its memory for the first time. None
  // is begun before the last one's result is there, when they are measured.
  StepOutcome take_step(Run& run, bool may_begin_next);
  // {"steps", "step_ms", "accounted", "ops": [{"name", "calls", "ms", "share"}]}: of a mean step,
  // and the shares of its time; null when not wanted or when there was but one step.
  Json json() const;
  void say() const;  // the same as a table, in the log

 private:
  bool wanted_;
  bool first_ = true;
  int64_t steps_ = 0;
  double ms_ = 0;
};

}  // namespace train_sft
