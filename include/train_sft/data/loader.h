// Rows, their order, and micro-batches.
//
// Order contract: a pure function of (seed, epoch, data); state is the step number. Every row
// occurs exactly once an epoch; the last step of an epoch is short, nothing wraps.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "train_sft/data/batch.h"
#include "train_sft/data/dataset.h"

namespace train_sft {

// none: one example a row. best_fit: best-fit decreasing, examples whole. sequential: text in
// windows; examples one after another, each in the current row while it fits, else in the next.
enum class Packing { none, best_fit, sequential };

// Resolves config.packing: auto is sequential for text, none for conversations.
Packing resolve_packing(const TrainConfig& config, bool is_text);

// Rows of at most block_size tokens. Text needs no table, whatever its size; the rows of packed
// examples are kept beside the token cache. For text: windows of the stream, stride = block_size,
// each also reading the one token after it as last target. For examples: one or several whole
// examples.
class RowTable {
 public:
  RowTable(const Dataset& dataset, Packing packing, int64_t block_size);
  uint64_t size() const { return rows_; }
  double fill() const;                            // real tokens / (rows × block_size)
  uint64_t tail_tokens() const { return tail_; }  // of a text stream, left out
  uint64_t tokens(uint64_t row) const;            // real ones in a row
  // Appends row r to batch as documents.
  void append(uint64_t row, Batch& batch) const;
  // The examples in a row (text: its own number).
  std::vector<uint64_t> examples(uint64_t row) const;

 private:
  void append_document(uint64_t first, uint64_t end, uint64_t target_end, uint64_t id,
                       Batch& batch) const;
  void append_window(uint64_t row, Batch& batch) const;

  const Dataset& dataset_;
  Packing packing_;
  int64_t block_size_;
  uint64_t rows_ = 0;
  uint64_t tail_ = 0;
  Column<uint64_t> row_offsets_;  // of packed examples: into row_examples_
  Column<uint32_t> row_examples_;
};

// Puts rows, fill and tail into a report.
void add_rows(DataReport& report, const RowTable& rows);

// Which rows a step, micro-batch and rank read.
class RowOrder {
 public:
  RowOrder(uint64_t rows, uint64_t seed, bool shuffle, int64_t rows_per_step);
  uint64_t steps_per_epoch() const;
  uint64_t epoch_of(uint64_t step) const;
  uint64_t rows_in_step(uint64_t step) const;  // rows_per_step but for an epoch's last
  uint64_t rows_before(uint64_t step) const;   // rows consumed by steps 0…step-1
  // The i-th row of a step, i < rows_in_step(step).
  uint64_t row(uint64_t step, uint64_t i) const;

 private:
  uint64_t rows_, seed_;
  bool shuffle_;
  uint64_t rows_per_step_;
};

// The batch of micro-batch `micro` on `rank`. Rows of a step are dealt in order: rows
// [(micro*ranks + rank)*batch_size, …) so that 1×8, 2×4 and 8×1 see the same rows in the same step.
// Empty (size() == 0) past the end of a short step.
Batch make_batch(const RowTable& rows, const RowOrder& order, uint64_t step, int64_t micro,
                 int64_t batch_size, int64_t rank = 0, int64_t ranks = 1);
// Rows [first, end) of those of a step, or as many as it has.
struct StepRows {
  uint64_t first = 0, end = 0;
};
Batch make_batch(const RowTable& rows, const RowOrder& order, uint64_t step, StepRows of_step);
// Rows [first, first + count) in order, for evaluation.
Batch make_batch(const RowTable& rows, uint64_t first, uint64_t count);

}  // namespace train_sft
