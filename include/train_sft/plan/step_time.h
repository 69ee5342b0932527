// How long a step takes: measured by a few steps of this model on this machine, or from the peak
// rate of a named device.
#pragma once

#include <cstdint>
#include <functional>
#include <string>

#include "train_sft/config/recompute.h"
#include "train_sft/config/run_shape.h"
#include "train_sft/data/batch.h"
#include "train_sft/plan/device_table.h"

namespace train_sft {

// Multiplications and additions (each one FLOP) of a token, forward and backward: 6 a weight of a
// matrix, and 12 × layers × width × sequence length for attention (Chowdhery et al. 2022, PaLM,
// appendix B; the causal half is not taken off).
double flops_per_token(const ModelConfig& model, int64_t block_size);

// The part of the forward's multiplications that the backward repeats: what a step takes longer, in
// forward passes.
double recomputed_part(const ModelConfig& model, int64_t block_size, Recompute recompute);

struct StepTime {
  double evaluate_ms = 0;      // forward alone, of the tokens of a mean step
  double step_ms = 0;          // of a mean step
  double step_ms_at_peak = 0;  // no machine of this kind can be faster; 0: not known
  std::string basis;           // in words: where the figures come from
};

struct Probe {
  const ModelConfig& model;
  const TrainConfig& config;
  int64_t micro_rows;  // of a micro-batch
  std::string precision;
  int64_t threads = 1;
  int64_t steps = 3;             // micro-batches measured after one that warms up
  double mean_step_tokens = 0;   // real tokens of a mean step, of this process
  uint64_t available_bytes = 0;  // of memory; a model too large for it is measured by its layers
  double updated_share = 1;      // of what is trained, by this process
  // The i-th micro-batch of the run; empty: rows full of tokens.
  std::function<Batch(int64_t i)> micro_batch{};
};
// Trains random weights for some seconds. Interrupted by a stop signal: what was measured so far,
// or a step_ms of 0.
StepTime measure_step(const Probe& probe);

// Model FLOPs utilisation taken for a device that is not here, as large public runs report it
// (PaLM: 46 %, Llama 3: 38 to 43 %).
inline constexpr double kUsualUtilisation = 0.4;
StepTime predict_step(const Devices& devices, const std::string& precision, double flops_per_step);

}  // namespace train_sft
