// What of max_memory the activations may take, and how many rows are computed at once within it.
#include <algorithm>

#include "train/run_setup.h"
#include "train_sft/base/error.h"
#include "train_sft/base/log.h"
#include "train_sft/base/memory.h"
#include "train_sft/base/progress.h"
#include "train_sft/ops/device_table.h"
#include "train_sft/train/micro_batch.h"

namespace train_sft {
namespace {

// Steps whose micro-batches are measured: enough rows to know a run's lengths, in a second or so.
constexpr uint64_t kRowsLookedAt = 1'000'000;

MicroBatchNeeds needs_of(const Run& run) {
  const RowTable& rows = *run.train_rows;
  MicroBatchNeeds needs{
      .model = run.settings.config.model,
      .config = run.config(),
      .batch = run.batch,
      .precision = run.state.precision,
      .threads = run.state.threads,
      .program = run.program_bytes,
      .data = run.data_bytes,
      // Shared state is written where it lies.
      .checkpoint_copy =
          run.shards->shared()
              ? 0
              : checkpoint_copy_bytes(run.settings.config.model, run.config(), run.state.precision),
      .optimizer_share = run.shards->share(),
      .masters_share = run.parameters->masters_shared() ? run.shards->share() : 1,
      .rounded_gradients =
          rounded_gradient_bytes(run.settings.config.model, run.config(), run.collective.size()),
      .mean_row_tokens = rows.fill() * static_cast<double>(run.batch.block_size)};
  // What is free is shared with the other processes on this machine.
  const auto local = static_cast<uint64_t>(run.collective.place().local_world_size);
  const uint64_t allowed = resident_bytes() + available_memory_bytes() / local;
  needs.limit = resolve_max_memory(run.config(), allowed);
  if (!run.device.is_cpu()) {  // its memory alone; what it holds of this run's is counted again
    ops::DeviceMemory memory;
    ops::device_table(run.device.type())->memory(&memory);
    needs.program = needs.data = needs.checkpoint_copy = 0;
    needs.limit = resolve_max_memory(run.config(), memory.free + memory.reserved);
    needs.place = device_memory_place(needs.limit);
    // The bits of the loss depend on its chunks.
    const auto& saved = run.start.state;
    if (saved && saved->loss_scratch > 0 && run.start.kind != StartKind::weights)
      needs.place.loss_scratch = saved->loss_scratch;
  }
  if (run.data.train.is_text) return needs;
  const uint64_t steps = std::min<uint64_t>(
      static_cast<uint64_t>(run.shape.max_iters),
      std::max<uint64_t>(1, kRowsLookedAt / static_cast<uint64_t>(run.batch.rows_per_step())));
  needs.largest_tokens = [&run, steps](int64_t piece) {
    return largest_piece_tokens(*run.train_rows, *run.order, run.batch, piece, 0, steps);
  };
  return needs;
}

// What a resumed run computed at once, unless this machine has less memory.
MicroBatch micro_batch_of(const Run& run, const MicroBatchNeeds& needs) {
  const int64_t saved = run.start.state ? run.start.state->micro_rows : 0;
  const bool same_steps = saved > 0 && saved <= run.batch.batch_size &&
                          run.start.kind != StartKind::weights &&
                          run.start.state->rows_per_step == run.batch.rows_per_step();
  const bool was_cut = same_steps && (needs.config.batch_size_auto || saved < run.batch.batch_size);
  if (!was_cut) return choose_micro_batch(needs);
  const MicroBatch fit = fit_micro_batch(needs, saved);
  if (fit.rows > 0 && fit.rows < saved)
    log::warning(
        "micro-batches of {} rows do not fit into {} (max_memory {}), as they did when the "
        "checkpoint was made: now {}; sums round differently",
        saved, human_bytes(static_cast<double>(needs.limit)), needs.config.max_memory, fit.rows);
  return fit;
}

// A resumed run that grows must be cut where the uncut one would have been.
bool keeps_limit(const Run& run, uint64_t needed) {
  const auto& saved = run.start.state;
  return run.start.kind == StartKind::resume && saved->arena_limit > 0 &&
         saved->processes == run.state.processes &&
         needed <= static_cast<uint64_t>(saved->arena_limit) && saved->settings.is_object() &&
         saved->settings.value("max_memory", "") == run.config().max_memory;
}

// The least of any rank: what one computes and saves must hold for all. Zero when a row does not
// fit somewhere, which every rank then says.
int64_t least(Run& run, int64_t mine, const char* name) {
  double least = static_cast<double>(mine);
  for (const auto& of : run.collective.exchange_numbers({static_cast<double>(mine)}, name))
    least = std::min(least, of[0]);
  return static_cast<int64_t>(least);
}

}  // namespace

EngineOptions fit_into_memory(Run& run) {
  const MicroBatchNeeds needs = needs_of(run);
  MicroBatch chosen = micro_batch_of(run, needs);
  const int64_t agreed = least(run, chosen.rows, "rows computed at once");
  if (agreed < chosen.rows) chosen = fit_micro_batch(needs, agreed);
  if (chosen.rows == 0) {
    const int64_t rows = needs.config.batch_size_auto ? 1 : run.batch.batch_size;
    throw ResourceError("{}", does_not_fit(needs, needs.tokens(rows)));
  }
  MemoryPlan memory = needs.memory(chosen.tokens);
  const uint64_t in_turn = run.device.is_cpu() ? needs.gradients_in_turn(chosen) : 0;
  memory.gradients -= in_turn;
  run.state.micro_rows = chosen.rows;
  run.state.arena_limit =
      static_cast<int64_t>(needs.limit - kMemoryAllowance - (memory.total() - memory.activations));
  if (keeps_limit(run, memory.activations)) run.state.arena_limit = run.start.state->arena_limit;
  run.state.arena_limit = least(run, run.state.arena_limit, "memory for activations");
  if (chosen.rows < run.batch.batch_size || needs.config.batch_size_auto)
    log::info(
        "{} of {} rows are computed {} at a time: {} of memory planned, {} of it activations, of "
        "{} (max_memory {})",
        run.batch.grad_accum > 1 ? "micro-batches" : "steps", run.batch.batch_size, chosen.rows,
        human_bytes(static_cast<double>(memory.total())),
        human_bytes(static_cast<double>(memory.activations)),
        human_bytes(static_cast<double>(needs.limit)), needs.config.max_memory);
  EngineOptions options;
  options.max_tokens = chosen.tokens;
  options.gives_way = in_turn > 0;
  options.max_arena_bytes = static_cast<uint64_t>(run.state.arena_limit);
  options.loss_scratch = needs.place.loss_scratch;
  run.state.loss_scratch = run.device.is_cpu() ? 0 : options.loss_scratch;
  return options;
}

}  // namespace train_sft
