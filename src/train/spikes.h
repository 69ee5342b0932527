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

}  // namespace train_sft
