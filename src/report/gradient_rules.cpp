#include <fmt/format.h>

#include <array>
#include <cmath>

#include "report/sign_rules.h"
#include "report/statistics.h"

namespace train_sft {
namespace {

// A new model's first gradients are large; what counts is a norm that stays so.
constexpr double kHighNorm = 2;
constexpr size_t kNormSettled = 15;  // records after warm-up
constexpr double kNormRise = 2.5;    // times the lowest
constexpr size_t kRiseRecords = 30;  // after warm-up

std::optional<Finding> grad_norm_high(const History& history) {
  if (history.after_warmup() < kNormSettled) return std::nullopt;
  const std::vector<double> norms = history.last_values(&Record::grad_norm, kWindow);
  if (norms.size() < kWindow || median(norms) <= kHighNorm) return std::nullopt;
  return Finding{
      history.records()[history.records().size() - kWindow].step,
      fmt::format("the gradient norm's median over the last {} records is {:.2f}, above "
                  "{:.0f}",
                  kWindow, median(norms), kHighNorm),
      "Most updates are cut by grad_clip. Where the loss is unsteady: lower learning_rate, "
      "lengthen "
      "warmup_iters, raise the batch (grad_accum), look for broken examples in the data. Where it "
      "hardly moves, the model is still at its beginning."};
}

std::optional<Finding> grad_norm_rising(const History& history) {
  const auto& lowest = history.lowest_grad_norm();
  if (history.after_warmup() < kRiseRecords || !lowest) return std::nullopt;
  const std::vector<double> now = history.last_values(&Record::grad_norm, kWindow);
  const std::vector<double> before = history.last_values(&Record::grad_norm, kWindow, kWindow);
  if (now.size() < kWindow || before.size() < kWindow) return std::nullopt;
  const double norm = median(now), norm_before = median(before);
  if (norm < kNormRise * lowest->median || norm < norm_before || norm_before < lowest->median)
    return std::nullopt;
  return Finding{lowest->step,
                 fmt::format("the gradient norm rose from {:.3f} at step {} to {:.3f} (medians of "
                             "{} records)",
                             lowest->median, lowest->step, norm, kWindow),
                 "A norm that keeps rising often comes before divergence. Lower learning_rate or "
                 "min_lr, or go back to the checkpoint before the rise."};
}

std::optional<Finding> loss_spike(const History& history) {
  const auto& records = history.records();
  if (records.size() < 2) return std::nullopt;
  const Record &before = records[records.size() - 2], &now = history.last();
  if (now.spikes <= before.spikes) return std::nullopt;
  return Finding{
      before.step + 1,
      fmt::format("the loss of {} of steps {} to {} stood far above those before; {} in the run so "
                  "far",
                  now.spikes - before.spikes, before.step + 1, now.step, now.spikes),
      "One or two are common and pass. If they repeat: lower learning_rate or beta2, set "
      "--skip_spikes, or look at the examples of those steps (--log_examples)."};
}

std::optional<Finding> non_finite(const History& history) {
  const Record& now = history.last();
  if (!now.skipped || (std::isfinite(now.loss) && std::isfinite(now.grad_norm)))
    return std::nullopt;
  return Finding{now.step,
                 fmt::format("step {}: the {} is not finite; the update was left out", now.step,
                             std::isfinite(now.loss) ? "gradient" : "loss"),
                 "Once is harmless. Again and again: lower learning_rate, use precision fp32, or "
                 "start from a checkpoint before it began."};
}

constexpr std::array<SignRule, 4> kGradientRules = {{
    {"grad_norm_high", Sign::Level::warning, grad_norm_high},
    {"grad_norm_rising", Sign::Level::warning, grad_norm_rising},
    {"loss_spike", Sign::Level::warning, loss_spike},
    {"non_finite", Sign::Level::warning, non_finite},
}};

}  // namespace

std::span<const SignRule> gradient_rules() {
  return kGradientRules;
}

}  // namespace train_sft
