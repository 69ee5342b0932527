// How many rows are computed at once, so that a run stays within max_memory. A step's rows and
// their order do not depend on it (the Order contract): a micro-batch that is too large is computed
// in pieces, whose sums of losses and gradients are the micro-batch's.
#pragma once

#include <cstdint>
#include <functional>
#include <string>

#include "train_sft/config/run_shape.h"
#include "train_sft/data/loader.h"
#include "train_sft/train/memory_plan.h"

namespace train_sft {

// Real tokens of the largest piece of `piece` rows, in steps [first, first + steps).
int64_t largest_piece_tokens(const RowTable& rows, const RowOrder& order, const BatchShape& batch,
                             int64_t piece, uint64_t first, uint64_t steps);

// Left free within max_memory: pages of the program that a step touches for the first time, and
// what saving and logging take for a moment.
inline constexpr uint64_t kMemoryAllowance = uint64_t{16} << 20;

struct MicroBatch {
  int64_t rows = 0;    // computed at once; 0: not even one row fits
  int64_t tokens = 0;  // of the largest, in the steps that were looked at
};

struct MicroBatchNeeds {
  const ModelConfig& model;
  TrainConfig config;
  const BatchShape& batch;
  std::string precision{};
  int64_t threads = 1;
  uint64_t limit = 0;              // bytes, of the whole process
  uint64_t program = 0, data = 0;  // of them, taken already
  uint64_t checkpoint_copy = 0;
  double optimizer_share = 1;  // of its state, kept by this process
  double masters_share = 1;
  uint64_t rounded_gradients = 0;  // the copy that is sent, with reduce_dtype bf16
  MemoryPlace place{};
  double mean_row_tokens = 0;
  // Of the largest piece of so many rows; none: rows are full.
  std::function<int64_t(int64_t rows)> largest_tokens{};

  // Of the largest piece of so many rows: what memory is planned for.
  int64_t tokens(int64_t rows) const {
    return largest_tokens ? largest_tokens(rows) : rows * batch.block_size;
  }
  MemoryPlan memory(int64_t tokens) const;
  // Less than memory() says, when a whole step is computed at once: what fits is chosen without it.
  uint64_t gradients_in_turn(const MicroBatch& chosen) const;
  bool fits(int64_t tokens) const { return memory(tokens).total() + kMemoryAllowance <= limit; }
};

// batch_size, or under auto as many of a step's rows as fit and are worth computing together.
MicroBatch choose_micro_batch(const MicroBatchNeeds& needs);
// As choose_micro_batch(), of at most so many rows.
MicroBatch fit_micro_batch(const MicroBatchNeeds& needs, int64_t most_rows);
// What an error says of a micro-batch of `tokens` that does not fit: the parts and what would help.
std::string does_not_fit(const MicroBatchNeeds& needs, int64_t tokens);

}  // namespace train_sft
