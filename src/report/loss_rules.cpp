#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>

#include "report/sign_rules.h"
#include "report/statistics.h"

namespace train_sft {
namespace {

constexpr size_t kSettled = 15;  // records after warm-up
constexpr int64_t kSettledSteps = 60;
constexpr double kFlat = 0.01;        // a fall below this part of the first loss is none
constexpr double kFlatBound = 0.05;   // and it is sure that it is below this one
constexpr double kAboveStart = 1.15;  // times the first loss
constexpr size_t kAboveRecords = 3;
constexpr double kClimb = 1.1;          // times the lowest median
constexpr size_t kLineRecords = 45;     // after warm-up, in three parts
constexpr double kStraight = 0.8;       // of the fall before, in equal time
constexpr size_t kFirst = 5;            // records
constexpr double kSlow = 0.05;          // of the first losses, in all
constexpr size_t kPlateauRecords = 60;  // after warm-up
constexpr double kStandstill = 0.01;

double joint_error(const Level& a, const Level& b) {
  return std::hypot(a.error, b.error);
}

// Finite losses since warm-up.
size_t settled_losses(const History& history) {
  return std::min(history.after_warmup(), history.finite_losses().size());
}

// Of `count` losses that `back` others follow.
Level last_level(const History& history, size_t count, size_t back = 0) {
  const LevelOfRanges& losses = history.finite_losses();
  return losses.level(losses.size() - back - count, count);
}

std::optional<Finding> not_learning(const History& history) {
  if (history.after_warmup() < kSettled || history.last().step < kSettledSteps) return std::nullopt;
  const size_t n = history.finite_losses().size(), head = std::max(kFirst, n / 10),
               tail = std::max<size_t>(kWindow, n / 3);
  if (n < head + tail) return std::nullopt;
  const Level first = history.finite_losses().level(0, head), now = last_level(history, tail);
  const double fall = first.mean - now.mean, error = joint_error(first, now);
  const bool is_flat = fall < kFlat * first.mean && fall + 2 * error < kFlatBound * first.mean;
  if (!is_flat || fall < -kFlat * first.mean - 2 * error) return std::nullopt;
  return Finding{
      history.records().front().step,
      fmt::format("the training loss is where it began: {:.4f} at first, {:.4f} over the "
                  "last {} records",
                  first.mean, now.mean, tail),
      "Nothing is learned: learning_rate may be far too low (or, past a first jump, too "
      "high), the data may already be known to the model, or the mask may leave out what "
      "should be learned (train_sft inspect FILE --show 3)."};
}

constexpr const char* kTooHighAdvice =
    "A training loss that climbs means steps too large: divide learning_rate by 3 to 10, lengthen "
    "warmup_iters, and begin again from the checkpoint before the climb.";

// Above its first value several times in a row: the steps threw away what the start was worth.
std::optional<Finding> above_start(const History& history) {
  const double first = history.records().front().loss;
  const std::vector<double> now = history.last_values(&Record::loss, kAboveRecords);
  if (now.size() < kAboveRecords || history.records().size() <= kAboveRecords ||
      !std::isfinite(first))
    return std::nullopt;
  const double least = *std::min_element(now.begin(), now.end());
  if (least < kAboveStart * first) return std::nullopt;
  return Finding{history.records()[history.records().size() - kAboveRecords].step,
                 fmt::format("the training loss is above where it began: {:.4f} at first, at least "
                             "{:.4f} in the last {} records, at a learning rate of {:.3g}",
                             first, least, kAboveRecords, history.last().lr),
                 kTooHighAdvice};
}

std::optional<Finding> lr_too_high(const History& history) {
  const auto& lowest = history.lowest_loss();
  const std::vector<double> now = history.last_values(&Record::loss, kWindow);
  if (auto finding = above_start(history)) return finding;
  if (!lowest || now.size() < kWindow) return std::nullopt;
  const double level = median(now), error = 1.25 * standard_error(now);
  const double least = *std::min_element(now.begin(), now.end());
  if (level < kClimb * lowest->median || level - lowest->median < 3 * error ||
      least <= lowest->median)
    return std::nullopt;
  return Finding{lowest->step,
                 fmt::format("the training loss climbed from {:.4f} around step {} to {:.4f}, at a "
                             "learning rate of {:.3g}",
                             lowest->median, lowest->step, level, history.last().lr),
                 kTooHighAdvice};
}

// A loss that falls along a straight line is still at the very beginning of its curve.
std::optional<Finding> lr_too_low(const History& history) {
  const size_t settled = settled_losses(history);
  if (settled < kLineRecords) return std::nullopt;
  const size_t third = settled / 3;
  const Level a = last_level(history, third, settled - third),
              b = last_level(history, third, settled - 2 * third), c = last_level(history, third);
  const double first = a.mean - b.mean, second = b.mean - c.mean;
  const bool falls = first > 2 * joint_error(a, b) && second > 2 * joint_error(b, c);
  const double start = history.finite_losses().level(0, kFirst).mean;
  if (!falls || second < kStraight * first || c.mean < (1 - kSlow) * start) return std::nullopt;
  return Finding{history.records()[history.records().size() - history.after_warmup()].step,
                 fmt::format("the training loss falls slowly and in a straight line: {:.4f}, "
                             "{:.4f}, {:.4f} over three equal parts since warm-up",
                             a.mean, b.mean, c.mean),
                 "At a fitting learning rate a loss falls fast and then ever more slowly. Try 3 to "
                 "10 times the learning_rate."};
}

// Where there is validation data, its plateau is the one that counts (evaluation_rules.cpp).
std::optional<Finding> training_plateau(const History& history) {
  if (!history.evaluations().empty() || history.last().lr < kAnnealed * history.peak_lr())
    return std::nullopt;
  const size_t settled = settled_losses(history);
  if (settled < kPlateauRecords) return std::nullopt;
  const size_t quarter = settled / 4;
  const Level now = last_level(history, quarter), before = last_level(history, quarter, quarter);
  const double fall = before.mean - now.mean, error = joint_error(before, now);
  if (fall + error > kStandstill * before.mean || fall < -kStandstill * before.mean - 2 * error)
    return std::nullopt;
  return Finding{history.records()[history.records().size() - quarter].step,
                 fmt::format("the training loss stands still: {:.4f} over the last {} records, "
                             "{:.4f} over those before",
                             now.mean, quarter, before.mean),
                 "More steps at this learning rate bring little: let the rate decay now, or stop "
                 "here."};
}

constexpr std::array<SignRule, 4> kLossRules = {{
    {"not_learning", Sign::Level::warning, not_learning},
    {"lr_too_high", Sign::Level::warning, lr_too_high},
    {"lr_too_low", Sign::Level::warning, lr_too_low},
    {"training_plateau", Sign::Level::warning, training_plateau},
}};

}  // namespace

std::span<const SignRule> loss_rules() {
  return kLossRules;
}

}  // namespace train_sft
