#include "train/step.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <limits>

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
constexpr int64_t kMostSkippedInARow = 5;

double ms_since(Clock::time_point begin) {
  return std::chrono::duration<double, std::milli>(Clock::now() - begin).count();
}

struct Accumulated {
  LossSums sums;
  int64_t tokens = 0, examples = 0;
  double data_wait_ms = 0;
  bool interrupted = false;
};

Batch piece_of_step(const Run& run, StepRows rows) {
  const profile::Scope scope("data");
  return make_batch(*run.train_rows, *run.order, static_cast<uint64_t>(run.state.data_step), rows);
}

// A micro-batch that grew beyond the memory there is goes on in halves; so do those after it.
void cut_pieces(Run& run, int64_t rows, const ResourceError& error) {
  if (rows <= 1) throw error;
  run.state.micro_rows = (rows + 1) / 2;
  log::warning("step {}: {} rows are too many at once, from here on {} at a time: {}",
               run.state.step + 1, rows, run.state.micro_rows, error.what());
}

// Gradients and losses of all pieces of all micro-batches as sums: one division at the end makes
// 1×8, 2×4 and 8×1 the same step, however unevenly tokens are learned. The ranks of one process are
// worked off in turn: micro-batch after micro-batch, in the order of the step's rows.
Accumulated accumulate(Run& run) {
  Accumulated total;
  run.engine->gives_way() ? run.parameters->drop_gradients() : run.parameters->zero_gradients();
  // An epoch's last step is short.
  const uint64_t rows = run.order->rows_in_step(static_cast<uint64_t>(run.state.data_step));
  const auto size = static_cast<uint64_t>(run.batch.batch_size);
  for (uint64_t first = 0; first < rows;) {
    if (first > 0 && signals::stop_requested()) {
      total.interrupted = true;
      break;
    }
    test_point("micro_step");
    const auto begin = Clock::now();
    const uint64_t end = std::min(
        {first + static_cast<uint64_t>(run.state.micro_rows), (first / size + 1) * size, rows});
    const Batch batch = piece_of_step(run, {first, end});
    total.data_wait_ms += ms_since(begin);
    LossSums sums;
    try {
      sums = run.engine->forward_backward(batch, static_cast<uint64_t>(run.state.step));
    } catch (const ResourceError& error) {  // before anything was added
      cut_pieces(run, static_cast<int64_t>(end - first), error);
      continue;
    }
    first = end;
    total.sums.loss += sums.loss;
    total.sums.weight += sums.weight;
    total.tokens += batch.size();
    total.examples += run.data.train.is_text ? batch.rows : batch.documents();
  }
  return total;
}

void count_bad_step(TrainState& state, const StepOutcome& outcome) {
  ++state.bad_steps;
  ++state.skipped;
  log::warning("step {}: {} is not finite; no update ({} in a row, {} in all)", state.step + 1,
               std::isfinite(outcome.loss) ? "the gradient" : "the loss", state.bad_steps,
               state.skipped);
}

// Judges a finite step by those before it; true when it is a spike and is to be skipped. A single
// gradient norm that stands out is common in sound runs, and grad_clip sees to it: what is counted
// and warned of is the loss.
bool skips_as_spike(Run& run, const StepOutcome& outcome) {
  TrainState& state = run.state;
  const double asked = run.config().skip_spikes;
  const double limit = asked > 0 ? asked : kSpike;
  const SpikeScore score = spike_score(state, outcome.loss, outcome.grad_norm);
  remember_step(state, outcome.loss, outcome.grad_norm, limit);
  if (score.highest() <= limit) {
    state.spikes_skipped = 0;
    return false;
  }
  // A level that stays is no spike: after so many it is believed.
  const bool skips = asked > 0 && state.spikes_skipped < kMostSkippedInARow;
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

StepOutcome take_step(Run& run) {
  const auto begin = Clock::now();
  TrainState& state = run.state;
  StepOutcome outcome;
  const Accumulated total = accumulate(run);
  outcome.interrupted = total.interrupted;
  if (outcome.interrupted) return outcome;

  outcome.lr = run.schedule.lr(state.step) * state.lr_scale;
  outcome.tokens = total.tokens;
  outcome.weight = total.sums.weight;
  if (total.sums.weight > 0) {
    outcome.loss = total.sums.loss / total.sums.weight;
    if (std::isfinite(outcome.loss))
      outcome.grad_norm = run.optimizer->grad_norm(total.sums.weight);
    if (!std::isfinite(outcome.loss) || !std::isfinite(outcome.grad_norm)) {
      outcome.skipped = true;
      count_bad_step(state, outcome);
    } else {
      state.bad_steps = 0;
      outcome.skipped = skips_as_spike(run, outcome);
      if (!outcome.skipped) run.optimizer->update(outcome.lr, total.sums.weight, outcome.grad_norm);
    }
  } else {
    outcome.loss = std::numeric_limits<double>::quiet_NaN();
    log::warning("step {}: none of its {} tokens is learned; no update", state.step + 1,
                 total.tokens);
  }
  state.adam_t = run.optimizer->t;
  state.tokens += total.tokens;
  state.examples += total.examples;
  ++state.step;
  ++state.data_step;
  outcome.data_wait_ms = total.data_wait_ms;
  outcome.step_ms = ms_since(begin);
  return outcome;
}

}  // namespace train_sft
