#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>

#include "report/sign_rules.h"
#include "report/statistics.h"

namespace train_sft {
namespace {

constexpr size_t kRising = 3;              // evaluations in a row
constexpr double kValidationRise = 0.005;  // above the best, in all
constexpr double kForgotten = 0.02;        // above the lowest of a named set
constexpr size_t kPlateauEvals = 6;
constexpr double kValidationStandstill =
    0.003;  // of the best loss, over the last quarter of evaluations
constexpr std::array<double, 9> kMilestones = {1000, 300, 100, 50, 20, 10, 5, 3, 2};

using Evaluations = std::vector<Evaluation>;

size_t lowest(const Evaluations& evaluations) {
  const auto less = [](const Evaluation& a, const Evaluation& b) { return a.loss < b.loss; };
  return static_cast<size_t>(std::min_element(evaluations.begin(), evaluations.end(), less) -
                             evaluations.begin());
}

// The last kRising evaluations each stand above the one before.
bool keeps_rising(const Evaluations& evaluations) {
  if (evaluations.size() < kRising + 1) return false;
  for (size_t i = evaluations.size() - kRising; i < evaluations.size(); ++i)
    if (evaluations[i].loss <= evaluations[i - 1].loss) return false;
  return true;
}

// Also when it rises with a step back now and then.
bool has_risen(const Evaluations& evaluations, size_t best) {
  if (evaluations.size() - 1 - best < 2 * kRising) return false;
  for (size_t i = evaluations.size() - kRising; i < evaluations.size(); ++i)
    if (evaluations[i].loss <= (1 + 2 * kValidationRise) * evaluations[best].loss) return false;
  return true;
}

bool is_evaluation(const History& history) {
  return !history.evaluations().empty() && history.evaluations().back().step == history.last().step;
}

std::optional<Finding> over_fitting(const History& history) {
  if (!is_evaluation(history)) return std::nullopt;
  const Evaluations& evals = history.evaluations();
  const size_t best = lowest(evals);
  const Evaluation &bottom = evals[best], &now = evals.back();
  if (now.loss < (1 + kValidationRise) * bottom.loss ||
      !(keeps_rising(evals) || has_risen(evals, best)))
    return std::nullopt;
  const std::vector<double> then = history.losses_until(bottom.step, kWindow),
                            late = history.losses_until(now.step, kWindow);
  if (then.empty() || late.empty() || mean(late) >= mean(then)) return std::nullopt;
  return Finding{
      bottom.step,
      fmt::format("validation rose from {:.4f} at step {} to {:.4f} while training fell "
                  "from {:.4f} to {:.4f}; the best was step {}",
                  bottom.loss, bottom.step, now.loss, mean(then), mean(late), bottom.step),
      "The model begins to learn its examples by heart. best_model keeps the best step; "
      "end there (--early_stop_patience), train fewer epochs, or add data, dropout or "
      "weight_decay."};
}

std::optional<Finding> plateau(const History& history) {
  const Evaluations& evals = history.evaluations();
  if (!is_evaluation(history) || evals.size() < kPlateauEvals ||
      history.last().lr < kAnnealed * history.peak_lr())
    return std::nullopt;
  const size_t late = std::max(kRising, evals.size() / 4);
  const Evaluations before(evals.begin(), evals.end() - static_cast<std::ptrdiff_t>(late));
  const Evaluations after(evals.end() - static_cast<std::ptrdiff_t>(late), evals.end());
  const double then = before[lowest(before)].loss, now = after[lowest(after)].loss;
  if (now < (1 - kValidationStandstill) * then ||
      after.back().loss > (1 + kValidationStandstill) * then)
    return std::nullopt;
  return Finding{before[lowest(before)].step,
                 fmt::format("validation stands still: {:.4f} at best in the last {} evaluations, "
                             "{:.4f} before",
                             now, late, then),
                 "More steps at this learning rate bring little: let the rate decay now, or stop "
                 "(--early_stop_patience)."};
}

std::optional<Finding> forgetting(const History& history) {
  if (!is_evaluation(history)) return std::nullopt;
  for (const auto& [name, evals] : history.named()) {
    if (evals.back().step != history.last().step || !keeps_rising(evals)) continue;
    const Evaluation &bottom = evals[lowest(evals)], &now = evals.back();
    if (now.loss < (1 + kForgotten) * bottom.loss) continue;
    // What is trained for must have gained meanwhile, or it is not forgetting but divergence.
    const auto then = std::find_if(history.evaluations().begin(), history.evaluations().end(),
                                   [&](const Evaluation& e) { return e.step >= bottom.step; });
    const Evaluation& gained = history.evaluations().back();
    if (gained.loss >= then->loss) continue;
    return Finding{
        bottom.step,
        fmt::format("'{}' rose from {:.4f} at step {} to {:.4f} while validation fell from {:.4f} "
                    "to {:.4f}",
                    name, bottom.loss, bottom.step, now.loss, then->loss, gained.loss),
        "The model loses what it knew before. Mix some of that data in (several --data files, with "
        "weights), lower learning_rate, or train fewer epochs."};
  }
  return std::nullopt;
}

std::optional<Finding> perplexity_milestone(const History& history) {
  const Evaluations& evals = history.evaluations();
  if (!is_evaluation(history) || evals.size() < 2) return std::nullopt;
  const Evaluations before(evals.begin(), evals.end() - 1);
  const double then = std::exp(before[lowest(before)].loss), now = std::exp(evals.back().loss);
  double passed = 0;
  for (const double milestone : kMilestones)
    if (then >= milestone && now < milestone) passed = milestone;
  if (passed == 0) return std::nullopt;
  return Finding{
      evals.back().step,
      fmt::format("validation perplexity is below {:.0f} for the first time: {:.2f}", passed, now),
      "A milestone, not a warning."};
}

constexpr std::array<SignRule, 4> kEvaluationRules = {{
    {"over_fitting", Sign::Level::warning, over_fitting},
    {"plateau", Sign::Level::warning, plateau},
    {"forgetting", Sign::Level::warning, forgetting},
    {"perplexity_milestone", Sign::Level::note, perplexity_milestone},
}};

}  // namespace

std::span<const SignRule> evaluation_rules() {
  return kEvaluationRules;
}

}  // namespace train_sft
