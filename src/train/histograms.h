// Distributions of weights and gradients for TensorBoard.
#pragma once

#include <span>

#include "train/run_setup.h"
#include "train/step.h"
#include "train/tensorboard.h"

namespace train_sft {

// Of the finite values: kBins buckets of equal width between the smallest and the largest.
Histogram histogram_of(std::span<const float> values, double scale);

// Every histogram_interval steps: weights/<name> and gradients/<name> of every parameter as they
// stand after the step. Gradients are those of its mean loss, before clipping.
void write_histograms(Run& run, const StepOutcome& outcome);

}  // namespace train_sft
