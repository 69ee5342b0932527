#include "train/evaluate.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "train/ranks.h"
#include "train_sft/base/error.h"
#include "train_sft/base/log.h"
#include "train_sft/base/signals.h"
#include "train_sft/base/test_point.h"

namespace train_sft {
namespace {

// Adds rows [first, end); false when a stop was asked for.
bool add_losses(Run& run, const RowTable& rows, uint64_t first, uint64_t end, uint64_t& piece,
                LossSums& total) {
  while (first < end) {
    test_point("evaluation");
    if (signals::stop_requested()) return false;
    const uint64_t count = std::min(piece, end - first);
    try {
      const LossSums sums = run.engine->evaluate(make_batch(rows, first, count));
      run.collective.progressed();
      total.loss += sums.loss;
      total.weight += sums.weight;
      first += count;
    } catch (const ResourceError&) {  // longer rows than training has met
      if (count <= 1) throw;
      run.engine->release_memory();
      piece = (count + 1) / 2;
    }
  }
  return true;
}

// Parts of the rows fall to the processes in turn.
std::optional<double> mean_loss(Run& run, const RowTable& rows) {
  const auto rank = static_cast<uint64_t>(run.collective.rank());
  const auto processes = static_cast<uint64_t>(run.collective.size());
  auto piece = static_cast<uint64_t>(run.state.micro_rows);
  uint64_t end = rows.size();
  if (run.config().eval_batches > 0)
    end = std::min(end, static_cast<uint64_t>(run.config().eval_batches * run.config().batch_size));
  const uint64_t part =
      std::clamp<uint64_t>((end + processes - 1) / processes, 1, std::max<uint64_t>(piece, 1));
  LossSums own;
  bool goes_on = true;
  for (uint64_t first = rank * part; first < end && goes_on; first += processes * part)
    goes_on = add_losses(run, rows, first, std::min(end, first + part), piece, own);

  const double stop = goes_on ? 0 : static_cast<double>(signals::stop_code());
  std::vector<double> stops;
  LossSums total;
  for (const std::vector<double>& of :
       run.collective.exchange_numbers({own.loss, own.weight, stop}, "sums of an evaluation")) {
    total.loss += of[0];
    total.weight += of[1];
    stops.push_back(of[2]);
  }
  if (stop_agreed(run, stops)) return std::nullopt;
  return total.weight > 0 ? total.loss / total.weight : std::numeric_limits<double>::quiet_NaN();
}

}  // namespace

std::optional<EvaluationLosses> evaluate(Run& run) {
  EvaluationLosses evaluation;
  if (run.validation_rows) {
    evaluation.val_loss = mean_loss(run, *run.validation_rows);
    if (!evaluation.val_loss) return std::nullopt;
  }
  for (const auto& set : run.eval_sets) {
    const std::optional<double> loss = mean_loss(run, set->rows);
    if (!loss) return std::nullopt;
    evaluation.set_losses.emplace_back(set->name, *loss);
  }
  return evaluation;
}

void log_eval_sets_at_start(Run& run) {
  for (const auto& set : run.eval_sets) {
    const std::optional<double> loss = mean_loss(run, set->rows);
    if (!loss) return;
    log::info("{} loss {:.4f}, perplexity {:.2f} before the first step ({} examples, {} tokens)",
              set->name, *loss, std::exp(*loss), set->data.report.examples,
              set->data.report.tokens);
  }
}

bool note_validation(TrainState& state, double loss, double min_delta) {
  const bool better =
      std::isfinite(loss) && (state.best_step < 0 || loss < state.best_val_loss - min_delta);
  if (!better) {
    ++state.evals_since_best;
    return false;
  }
  state.best_val_loss = loss;
  state.best_step = state.step;
  state.evals_since_best = 0;
  return true;
}

}  // namespace train_sft
