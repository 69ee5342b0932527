#include "train/step.h"

#include <algorithm>
#include <array>
#include <chrono>
#include <cmath>
#include <limits>
#include <optional>

#include "train/ranks.h"
#include "train/spikes.h"
#include "train_sft/base/error.h"
#include "train_sft/base/log.h"
#include "train_sft/base/profile.h"
#include "train_sft/base/signals.h"
#include "train_sft/base/test_point.h"

namespace train_sft {
namespace {

using Clock = std::chrono::steady_clock;

constexpr double kSpike = 6;  // standard deviations; said, without skip_spikes

double ms_since(Clock::time_point begin) {
  return std::chrono::duration<double, std::milli>(Clock::now() - begin).count();
}

// Of this process's part of a step, then of the whole step.
struct Totals {
  LossSums sums;
  int64_t tokens = 0, examples = 0;
  double data_wait_ms = 0;
  bool interrupted = false;
  bool save_asked = false;
};

// Which step is worked on: the state's, or the one after it.
struct StepNumber {
  int64_t step = 0, data_step = 0;
};

StepNumber number_of(const Run& run, int64_t ahead) {
  return {run.state.step + ahead, run.state.data_step + ahead};
}

// Whether a device decides on the update by itself. The numbers of several processes meet on the
// host.
bool decides_on_device(const Run& run) {
  return !run.device.is_cpu() && run.collective.size() == 1;
}

Batch piece_of_step(const Run& run, StepNumber number, StepRows rows) {
  const profile::Scope scope("data");
  return make_batch(*run.train_rows, *run.order, static_cast<uint64_t>(number.data_step), rows);
}

// A micro-batch that grew beyond the memory there is goes on in halves; so do those after it.
void cut_pieces(Run& run, StepNumber number, int64_t rows, const ResourceError& error) {
  if (rows <= 1) throw error;
  run.state.micro_rows = (rows + 1) / 2;
  log::warning("step {}: {} rows are too many at once, from here on {} at a time: {}",
               number.step + 1, rows, run.state.micro_rows, error.what());
}

// Whether gradients are sent while layers below are still computed. What was sent cannot be taken
// back, so on a device a first step has to show that its memory suffices; and what is called back
// between layers is in no graph, so there must be something to gain.
bool sends_early(const Run& run) {
  if (run.device.is_cpu()) return true;
  return run.collective.size() > 1 && run.reduction->can_overlap() && run.fitted;
}

// One micro-batch in pieces. After the last of the step what is complete is added up over the ranks
// while layers below are still computed.
void add_micro_batch(Run& run, StepNumber number, StepRows rows, bool is_last, Totals& total) {
  for (uint64_t first = rows.first; first < rows.end;) {
    if (signals::stop_requested()) {
      total.interrupted = true;
      return;
    }
    test_point("micro_step");
    const auto begin = Clock::now();
    const uint64_t end = std::min(first + static_cast<uint64_t>(run.state.micro_rows), rows.end);
    const Batch batch = piece_of_step(run, number, {first, end});
    total.data_wait_ms += ms_since(begin);
    Engine::LayerDone layer_done;
    if (is_last && end == rows.end && sends_early(run))
      layer_done = [&run](int64_t layer) { run.reduction->layer_done(layer); };
    LossSums sums;
    try {
      sums = run.engine->forward_backward(batch, static_cast<uint64_t>(number.step), layer_done);
    } catch (const ResourceError& error) {
      if (!run.device.is_cpu()) throw;  // on the CPU before anything was added
      cut_pieces(run, number, static_cast<int64_t>(end - first), error);
      continue;
    }
    run.collective.progressed();
    first = end;
    total.sums.loss += sums.loss;
    total.sums.weight += sums.weight;
    total.tokens += batch.size();
    total.examples += run.data.train.is_text ? batch.rows : batch.documents();
  }
}

// What the ranks have to tell each other, in one message. Rank 0's part is added up first, and so
// on: the same bits everywhere.
Totals over_ranks(Run& run, StepNumber number, const Totals& own) {
  const auto stop = own.interrupted ? static_cast<double>(signals::stop_code()) : 0.0;
  const bool retry = run.retry_step >= 0 && number.step + 1 >= run.retry_step;
  const bool save = signals::take_save_request() || retry;
  const std::array<double, kStepSums> mine = {own.sums.loss,
                                              own.sums.weight,
                                              static_cast<double>(own.tokens),
                                              static_cast<double>(own.examples),
                                              stop,
                                              static_cast<double>(run.state.micro_rows),
                                              save ? 1.0 : 0.0};
  const auto all = run.collective.exchange_numbers({mine.begin(), mine.end()}, "sums of the step");
  Totals total;
  std::vector<double> stops;
  for (const std::vector<double>& of : all) {
    total.sums.loss += of[0];
    total.sums.weight += of[1];
    total.tokens += static_cast<int64_t>(of[2]);
    total.examples += static_cast<int64_t>(of[3]);
    stops.push_back(of[4]);
    // A resume computes on every rank what it computes on the first.
    run.state.micro_rows = std::min(run.state.micro_rows, static_cast<int64_t>(of[5]));
    total.save_asked = total.save_asked || of[6] > 0;
  }
  total.interrupted = stop_agreed(run, stops);
  total.data_wait_ms = own.data_wait_ms;
  return total;
}

// Gradients and losses of all pieces of all micro-batches as sums: one division at the end makes
// 1×8, 2×4 and 8×1 the same step, however unevenly tokens are learned. Ranks of the batch beyond
// the processes there are are worked off in turn.
Totals own_part(Run& run, StepNumber number) {
  Totals own;
  run.engine->drop_sums();  // of a step that was left
  run.engine->gives_way() ? run.parameters->drop_gradients() : run.parameters->zero_gradients();
  // An epoch's last step is short.
  const uint64_t rows = run.order->rows_in_step(static_cast<uint64_t>(number.data_step));
  const std::vector<StepRows> micro_batches =
      own_micro_batches(run.batch, rows, run.collective.rank(), run.collective.size());
  if (micro_batches.empty()) own.interrupted = signals::stop_requested();
  for (size_t m = 0; m < micro_batches.size() && !own.interrupted; ++m)
    add_micro_batch(run, number, micro_batches[m], m + 1 == micro_batches.size(), own);
  if (!decides_on_device(run)) own.sums.loss += run.engine->take_sums().loss;
  return own;
}

// On a device memory can run out in the middle of a micro-batch: the step starts again from zeroed
// gradients, with the same rows in the same order.
Totals own_part_whatever_fits(Run& run, StepNumber number) {
  while (true) {
    try {
      return own_part(run, number);
    } catch (const ResourceError& error) {
      if (run.device.is_cpu()) throw;
      if (run.reduction->under_way())
        throw Error(ExitCode::resource,
                    fmt::format("step {}: memory ran out when gradients had been sent already: {}; "
                                "go on with --resume auto and a smaller --max_memory",
                                run.state.step + 1, error.what()));
      run.fitted = false;
      run.engine->release_memory();
      cut_pieces(run, number, std::min(run.state.micro_rows, run.batch.batch_size), error);
    }
  }
}

Totals accumulate(Run& run, StepNumber number) {
  run.collective.at_step(number.step + 1);
  const Totals own = own_part_whatever_fits(run, number);
  const profile::Scope scope("other ranks");
  run.reduction->start_rest();
  const Totals total = over_ranks(run, number, own);
  run.reduction->wait();
  run.fitted = true;
  return total;
}

void count_bad_step(TrainState& state, const StepOutcome& outcome) {
  ++state.bad_steps;
  ++state.skipped;
  log::warning("step {}: {} is not finite; no update ({} in a row, {} in all)", state.step + 1,
               std::isfinite(outcome.loss) ? "the gradient" : "the loss", state.bad_steps,
               state.skipped);
}

// Judges a finite step by those before it. decided: whether the update was skipped, where the
// device has decided; returns whether it is to be, or was. A single gradient norm that stands out
// is common in sound runs, and grad_clip sees to it: what is counted and warned of is the loss.
bool skips_as_spike(Run& run, const StepOutcome& outcome, std::optional<bool> decided = {}) {
  TrainState& state = run.state;
  const double asked = run.config().skip_spikes;
  const double limit = asked > 0 ? asked : kSpike;
  const SpikeScore score = spike_score(state, outcome.loss, outcome.grad_norm);
  remember_step(state, outcome.loss, outcome.grad_norm, limit);
  const bool stands_out = score.highest() > limit;
  const bool skips =
      decided.value_or(stands_out && asked > 0 && state.spikes_skipped < kMostSkippedInARow);
  if (!stands_out && !skips) {
    state.spikes_skipped = 0;
    return false;
  }
  if (skips) {
    ++state.skipped;
    ++state.spikes_skipped;
  }
  const bool is_of_loss = score.loss > limit;
  if (is_of_loss) ++state.spikes;
  const std::string said = fmt::format(
      "step {}: spike: loss {:.4f} stands {:.1f} standard deviations above those before, "
      "gradient norm {:.3f} {:.1f}; {}",
      state.step + 1, outcome.loss, score.loss, outcome.grad_norm, score.grad_norm,
      skips ? "no update" : "--skip_spikes Z would skip such updates");
  is_of_loss || skips ? log::warning("{}", said) : log::info("{}", said);
  return skips;
}

void nothing_learned(const Run& run, StepOutcome& outcome) {
  outcome.loss = std::numeric_limits<double>::quiet_NaN();
  log::warning("step {}: none of its {} tokens is learned; no update", run.state.step + 1,
               outcome.tokens);
}

double lr_of(const Run& run, StepNumber number) {
  return run.schedule.lr(number.step) * run.state.lr_scale;
}

// The step is over: the state is that after it.
void advance(Run& run, int64_t tokens, int64_t examples) {
  TrainState& state = run.state;
  state.adam_t = run.optimizer->t;
  state.tokens += tokens;
  state.examples += examples;
  ++state.step;
  ++state.data_step;
}

// Everything of a step is queued; none when a stop was asked for.
std::optional<StepInFlight> queue_step(Run& run, int64_t ahead) {
  const StepNumber number = number_of(run, ahead);
  const Totals total = accumulate(run, number);
  if (total.interrupted) return std::nullopt;
  std::vector<WeightAmax> weights = run.engine->weight_amax();
  const bool weights_known = run.optimizer->covers(weights);
  if (!weights_known) weights.clear();
  run.engine->end_step(weights_known);
  ops::DeviceUpdate update;
  update.lr = lr_of(run, number);
  const StepLimits limits = limits_of_step(run.state, ahead);
  update.loss_limit = limits.loss;
  update.grad_norm_limit = limits.grad_norm;
  auto* sums = static_cast<ops::DeviceSums*>(run.engine->device_sums().data_ptr());
  return StepInFlight{.ticket = run.optimizer->queue_update(sums, update, ahead == 0, weights),
                      .lr = update.lr,
                      .weight = total.sums.weight,
                      .tokens = total.tokens,
                      .examples = total.examples,
                      .data_wait_ms = total.data_wait_ms,
                      .save_asked = total.save_asked};
}

// Waits for a step's result and judges it.
StepOutcome settle(Run& run, const StepInFlight& step) {
  const ops::DeviceUpdate update = [&] {
    const profile::Scope scope("waiting for the device");
    return run.optimizer->fetch_update(step.ticket);
  }();
  StepOutcome outcome;
  outcome.save_asked = step.save_asked;
  outcome.lr = step.lr;
  outcome.tokens = step.tokens;
  outcome.weight = step.weight;
  outcome.data_wait_ms = step.data_wait_ms;
  if (step.weight > 0) {
    outcome.loss = update.loss;
    outcome.grad_norm = update.grad_norm;
    outcome.skipped = update.skip != 0;
    if (!std::isfinite(outcome.loss) || !std::isfinite(outcome.grad_norm)) {
      count_bad_step(run.state, outcome);
    } else {
      run.state.bad_steps = 0;
      skips_as_spike(run, outcome, outcome.skipped);
    }
  } else {
    nothing_learned(run, outcome);
  }
  if (const double limit = run.config().skip_spikes; limit > 0)
    move_limits(run.state, step_limits(run.state, limit));
  advance(run, step.tokens, step.examples);
  return outcome;
}

StepOutcome take_device_step(Run& run, bool may_begin_next) {
  if (!run.in_flight) run.in_flight = queue_step(run, 0);
  if (!run.in_flight) return {.interrupted = true};
  const StepInFlight step = *run.in_flight;
  const bool goes_on = run.state.step + 1 < run.schedule.max_iters;
  std::optional<StepInFlight> next;
  if (may_begin_next && goes_on && !step.save_asked) next = queue_step(run, 1);
  run.in_flight = next;
  return settle(run, step);
}

StepOutcome take_host_step(Run& run) {
  TrainState& state = run.state;
  const StepNumber number = number_of(run, 0);
  const Totals total = accumulate(run, number);
  StepOutcome outcome;
  outcome.interrupted = total.interrupted;
  outcome.save_asked = total.save_asked;
  if (outcome.interrupted) return outcome;
  run.engine->end_step();

  outcome.lr = lr_of(run, number);
  outcome.tokens = total.tokens;
  outcome.weight = total.sums.weight;
  outcome.data_wait_ms = total.data_wait_ms;
  if (total.sums.weight > 0) {
    outcome.loss = total.sums.loss / total.sums.weight;
    if (std::isfinite(outcome.loss))
      outcome.grad_norm =
          std::sqrt(run.shards->total(run.optimizer->sum_of_squares())) / total.sums.weight;
    if (!std::isfinite(outcome.loss) || !std::isfinite(outcome.grad_norm)) {
      outcome.skipped = true;
      count_bad_step(state, outcome);
    } else {
      state.bad_steps = 0;
      outcome.skipped = skips_as_spike(run, outcome);
      if (!outcome.skipped) {
        run.optimizer->update(outcome.lr, total.sums.weight, outcome.grad_norm);
        run.shards->gather_weights();
      }
    }
  } else {
    nothing_learned(run, outcome);
  }
  advance(run, total.tokens, total.examples);
  return outcome;
}

}  // namespace

Json to_json(const StepOutcome& outcome) {
  return {{"skipped", outcome.skipped},
          {"loss", std::isfinite(outcome.loss) ? Json(outcome.loss) : Json()},
          {"grad_norm", std::isfinite(outcome.grad_norm) ? Json(outcome.grad_norm) : Json()},
          {"lr", outcome.lr},
          {"tokens", outcome.tokens},
          {"step_ms", outcome.step_ms},
          {"data_wait_ms", outcome.data_wait_ms}};
}

StepOutcome step_outcome_from_json(const Json& json) {
  constexpr double kNaN = std::numeric_limits<double>::quiet_NaN();
  const auto number = [&](const char* name) {
    return json.at(name).is_null() ? kNaN : json.at(name).get<double>();
  };
  StepOutcome outcome;
  outcome.skipped = json.at("skipped").get<bool>();
  outcome.loss = number("loss");
  outcome.grad_norm = number("grad_norm");
  outcome.lr = number("lr");
  outcome.tokens = json.at("tokens").get<int64_t>();
  outcome.step_ms = number("step_ms");
  outcome.data_wait_ms = number("data_wait_ms");
  return outcome;
}

StepOutcome take_step(Run& run, bool may_begin_next) {
  const auto begin = Clock::now();
  StepOutcome outcome =
      decides_on_device(run) ? take_device_step(run, may_begin_next) : take_host_step(run);
  if (!outcome.interrupted) outcome.step_ms = ms_since(begin);
  return outcome;
}

void forget_step_in_flight(Run& run) {
  if (run.in_flight) run.optimizer->fetch_update(run.in_flight->ticket);
  run.in_flight.reset();
}

}  // namespace train_sft
