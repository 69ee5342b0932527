// One optimizer step.
#pragma once

#include <cstdint>

#include "train/run_setup.h"

namespace train_sft {

struct StepOutcome {
  bool interrupted = false;  // a stop was asked for between micro-batches: nothing was changed
  bool save_asked = false;   // by SIGUSR1 to any process, or after a save that failed
  bool skipped = false;      // non-finite loss or gradient, or a skipped spike: no update
  double loss = 0;           // Σ weighted losses / Σ weights; NaN when nothing was learned
  double grad_norm = 0;      // before clipping
  double lr = 0;
  int64_t tokens = 0;  // of this step
  double weight = 0;   // Σ weights: what the gradients in Parameters, which are sums, divide by
  double step_ms = 0;
  double data_wait_ms = 0;  // of step_ms, spent making batches
};

// Numbers that every rank tells the others once a step.
inline constexpr size_t kStepSums = 7;

// For TrainState::unreported.
Json to_json(const StepOutcome& outcome);
StepOutcome step_outcome_from_json(const Json& json);

// Runs step run.state.step and advances run.state. On a device of a single process results are read
// a step late, so that it never waits for the host: with may_begin_next the next step is queued
// before this one's result is fetched. Without, nothing is in flight when it returns, and the
// weights are those after the step.
StepOutcome take_step(Run& run, bool may_begin_next = false);

// Before the weights are replaced by others: waits for what is in flight and drops its result.
void forget_step_in_flight(Run& run);

}  // namespace train_sft
