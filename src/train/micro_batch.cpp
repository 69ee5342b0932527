#include "train_sft/train/micro_batch.h"

#include <algorithm>
#include <cmath>

#include "train_sft/base/error.h"
#include "train_sft/base/progress.h"

namespace train_sft {
namespace {

// By so many tokens at once matrix products have long reached their speed.
constexpr double kEnoughTokens = 16384;

std::string bytes(uint64_t n) {
  return human_bytes(static_cast<double>(n));
}

int64_t pieces(int64_t rows, int64_t piece) {
  return (rows + piece - 1) / piece;
}

}  // namespace

int64_t largest_piece_tokens(const RowTable& rows, const RowOrder& order, const BatchShape& batch,
                             int64_t piece, uint64_t first, uint64_t steps) {
  uint64_t largest = 0;
  const auto size = static_cast<uint64_t>(batch.batch_size), part = static_cast<uint64_t>(piece);
  for (uint64_t step = first; step < first + steps; ++step) {
    const uint64_t end = order.rows_in_step(step);
    uint64_t tokens = 0;
    for (uint64_t i = 0; i < end; ++i) {
      if (i % size % part == 0) tokens = 0;  // pieces do not cross micro-batches
      tokens += rows.tokens(order.row(step, i));
      largest = std::max(largest, tokens);
    }
  }
  return static_cast<int64_t>(largest);
}

MemoryPlan MicroBatchNeeds::memory(int64_t tokens) const {
  MemoryPlan plan = plan_memory(model, config, precision, threads, tokens, place);
  plan.optimizer = static_cast<uint64_t>(static_cast<double>(plan.optimizer) * optimizer_share);
  plan.parameters = static_cast<uint64_t>(static_cast<double>(plan.parameters) * masters_share);
  plan.gradients += rounded_gradients;
  plan.program = program;
  plan.data = data;
  plan.checkpoint_copy = checkpoint_copy;
  return plan;
}

uint64_t MicroBatchNeeds::gradients_in_turn(const MicroBatch& chosen) const {
  if (chosen.rows < batch.rows_per_step()) return 0;
  return train_sft::gradients_in_turn(model, config, precision, chosen.tokens);
}

MicroBatch fit_micro_batch(const MicroBatchNeeds& needs, int64_t most) {
  int64_t rows = most_rows(most, [&](int64_t count) { return needs.fits(needs.tokens(count)); });
  if (rows == 0) return {};
  if (rows < most) rows = pieces(most, pieces(most, rows));  // as even as can be
  return {rows, needs.tokens(rows)};
}

MicroBatch choose_micro_batch(const MicroBatchNeeds& needs) {
  const int64_t rows = needs.batch.batch_size;
  if (!needs.config.batch_size_auto) {
    const int64_t tokens = needs.tokens(rows);
    return needs.fits(tokens) ? MicroBatch{rows, tokens} : MicroBatch{0, tokens};
  }
  const double row_tokens = std::max(1.0, needs.mean_row_tokens);
  const auto worth = static_cast<int64_t>(std::max(1.0, std::floor(kEnoughTokens / row_tokens)));
  return fit_micro_batch(needs, worth < rows ? pieces(rows, pieces(rows, worth)) : rows);
}

std::string does_not_fit(const MicroBatchNeeds& needs, int64_t tokens) {
  const MemoryPlan memory = needs.memory(tokens);
  std::string text = fmt::format(
      "max_memory: {} of {} tokens need {}: activations {}, weights, gradients and optimizer {}, "
      "program, data and the rest {}; but {} ({}) is all there is",
      needs.config.batch_size_auto
          ? std::string("batch_size auto: micro-batches of one row")
          : fmt::format("batch_size {}: micro-batches", needs.batch.batch_size),
      tokens, bytes(memory.total() + kMemoryAllowance), bytes(memory.activations),
      bytes(memory.parameters + memory.compute_copy + memory.gradients + memory.optimizer),
      bytes(memory.workspace + memory.program + memory.data + memory.checkpoint_copy +
            kMemoryAllowance),
      bytes(needs.limit), needs.config.max_memory);
  const auto largest = [&](const char* recompute) {
    MicroBatchNeeds with = needs;
    with.config.recompute = recompute;
    return most_rows(needs.batch.batch_size,
                     [&](int64_t count) { return with.fits(with.tokens(count)); });
  };
  const std::string& set = needs.config.recompute;
  const int64_t now = needs.config.batch_size_auto ? 0 : largest(set.c_str());
  const int64_t again = set == "block" ? 0 : largest("block");
  std::string advice;
  if (now > 0)
    advice = fmt::format(
        "; with batch_size {} it fits (raise grad_accum by as much, or say batch_size auto, and "
        "the steps stay the same)",
        now);
  if (again > now) advice += fmt::format("; with recompute block, batch_size {}", again);
  if (advice.empty())
    advice =
        "; raise max_memory, or use a smaller block_size or model, or train less of it "
        "(lora_rank, freeze)";
  else
    advice += "; or raise max_memory";
  return text + advice;
}

}  // namespace train_sft
