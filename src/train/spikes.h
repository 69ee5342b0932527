// Spikes: steps whose loss or gradient norm stands far out of those before. The window is part of
// the run's state, so that a resumed run judges as the uncut one.
#pragma once

#include "train_sft/train/checkpoint.h"

namespace train_sft {

// How many standard deviations above the mean of the window; 0 while the window is too short to
// say.
struct SpikeScore {
  double loss = 0, grad_norm = 0;
  double highest() const { return loss > grad_norm ? loss : grad_norm; }
};
SpikeScore spike_score(const TrainState& state, double loss, double grad_norm);

// Adds a step to the window. What stands out by more than `limit` enters as if it stood out by just
// that: one spike must not hide the next, and a new level is believed in after some steps.
void remember_step(TrainState& state, double loss, double grad_norm, double limit);

// A level that stays is no spike: after so many skipped in a row it is believed.
inline constexpr int64_t kMostSkippedInARow = 5;

// The largest loss and gradient norm of a step that is no spike by what is known now, for a device
// that decides by itself. Steps are queued one ahead of what is known: these are for the step after
// the next one.
StepLimits step_limits(const TrainState& state, double limit);
// Those of the step `ahead` of the state's, 0 or 1; none where none are known.
StepLimits limits_of_step(const TrainState& state, int64_t ahead);
// After a step: its own are over, and there are those of one more.
void move_limits(TrainState& state, const StepLimits& next);

}  // namespace train_sft
