#include <algorithm>

#include "train_sft/base/error.h"
#include "train_sft/base/rng.h"
#include "train_sft/data/loader.h"

namespace train_sft {

double Batch::weight_sum() const {
  if (weights.empty()) return static_cast<double>(learned.size());
  double sum = 0;
  for (const float weight : weights) sum += weight;
  return sum;
}

RowOrder::RowOrder(uint64_t rows, uint64_t seed, bool shuffle, int64_t rows_per_step)
    : rows_(rows),
      seed_(seed),
      shuffle_(shuffle),
      rows_per_step_(static_cast<uint64_t>(rows_per_step)) {
  TRAIN_SFT_CHECK(rows > 0 && rows_per_step > 0, "{} rows, {} a step", rows, rows_per_step);
}

uint64_t RowOrder::steps_per_epoch() const {
  return (rows_ + rows_per_step_ - 1) / rows_per_step_;
}

uint64_t RowOrder::epoch_of(uint64_t step) const {
  return step / steps_per_epoch();
}

uint64_t RowOrder::rows_in_step(uint64_t step) const {
  const uint64_t first = step % steps_per_epoch() * rows_per_step_;
  return std::min(rows_per_step_, rows_ - first);
}

uint64_t RowOrder::rows_before(uint64_t step) const {
  return epoch_of(step) * rows_ + step % steps_per_epoch() * rows_per_step_;
}

uint64_t RowOrder::row(uint64_t step, uint64_t i) const {
  TRAIN_SFT_CHECK(i < rows_in_step(step), "row {} of step {}", i, step);
  const uint64_t place = step % steps_per_epoch() * rows_per_step_ + i;
  if (!shuffle_) return place;
  return IndexPermutation(rows_, seed_, epoch_of(step))(place);
}

Batch make_batch(const RowTable& rows, const RowOrder& order, uint64_t step, int64_t micro,
                 int64_t batch_size, int64_t rank, int64_t ranks) {
  const auto first = static_cast<uint64_t>((micro * ranks + rank) * batch_size);
  return make_batch(rows, order, step, {first, first + static_cast<uint64_t>(batch_size)});
}

Batch make_batch(const RowTable& rows, const RowOrder& order, uint64_t step, StepRows of_step) {
  Batch batch;
  const uint64_t end = std::min(of_step.end, order.rows_in_step(step));
  for (uint64_t i = of_step.first; i < end; ++i) rows.append(order.row(step, i), batch);
  return batch;
}

Batch make_batch(const RowTable& rows, uint64_t first, uint64_t count) {
  Batch batch;
  const uint64_t end = std::min(first + count, rows.size());
  for (uint64_t row = first; row < end; ++row) rows.append(row, batch);
  return batch;
}

}  // namespace train_sft
