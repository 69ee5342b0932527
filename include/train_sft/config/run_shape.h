// From settings and the number of rows to what a run will do: rows a step, steps an epoch, length
// of the schedule's parts. Pure arithmetic, used by training and by plan.
#pragma once

#include <cstdint>
#include <string>

#include "train_sft/config/train_config.h"

namespace train_sft {

struct BatchShape {
  int64_t batch_size = 0;  // rows of a micro-batch on one rank
  int64_t grad_accum = 0;  // micro-batches a step on one rank
  int64_t ranks = 1;
  int64_t block_size = 0;

  int64_t rows_per_step() const { return batch_size * grad_accum * ranks; }
  int64_t tokens_per_step() const { return rows_per_step() * block_size; }
};

// Resolves the batch spellings; several may be given as long as they mean the same. Throws
// UsageError with the two numbers that disagree or do not divide, and the nearest values that
// would. With batch_size auto a step has the rows that the others say, else the usual batch_size ×
// grad_accum, as one micro-batch; how many of them are computed at once is for memory to say.
BatchShape resolve_batch(const TrainConfig& config, int64_t ranks);

// Steps between checkpoints when neither save_interval nor an evaluation says.
inline constexpr int64_t kDefaultSaveInterval = 1000;
// auto: fp32 on the CPU.
std::string resolve_precision(const TrainConfig& config);
// 0: the cores there are.
int64_t resolve_threads(const TrainConfig& config);
// Bytes: max_memory as it stands, or as a part of `allowed`. Units are those of 1000 (kB, MB, GB,
// TB) and 1024 (KiB, MiB, GiB, TiB). Throws UsageError for anything else.
uint64_t resolve_max_memory(const TrainConfig& config, uint64_t allowed);

struct RunShape {
  uint64_t rows = 0;
  int64_t rows_per_step = 0;
  int64_t steps_per_epoch = 0;  // ⌈rows / rows_per_step⌉: the last step of an epoch may be short
  int64_t max_iters = 0;
  int64_t warmup_iters = 0;
  int64_t plateau_iters = 0;
  int64_t decay_iters = 0;  // the rest
  double peak_lr = 0;
  double min_lr = 0;

  double epochs() const;  // rows seen in max_iters steps / rows, short last steps counted exactly
};

// The length is extend_steps, else max_iters, else epochs, else one epoch. Warm-up defaults to 2.5
// % of it and the plateau of warmup_plateau_cosine to 50 %, each rounded to the nearest step.
RunShape resolve_run(const TrainConfig& config, const BatchShape& batch, uint64_t rows);

}  // namespace train_sft
