#include "report/summary.h"

#include <fmt/format.h>

#include <algorithm>

#include "report/statistics.h"
#include "train_sft/base/progress.h"
#include "train_sft/report/page.h"

namespace train_sft {
namespace {

std::string stopped_by(const RunFiles& run) {
  const Json& reason = value_at(run.card, {"ended", "summary", "stopped_by"});
  return reason.is_string() ? reason.get<std::string>() : "";
}

void set_state(const RunFiles& run, Outline& outline) {
  const std::string reason = stopped_by(run);
  if (reason == "diverged") {
    outline.state = RunState::diverged;
    outline.state_text = "diverged";
  } else if (reason == "signal") {
    outline.state = RunState::stopped;
    outline.state_text = "stopped by a signal";
  } else if (reason == "early_stop") {
    outline.state = RunState::done;
    outline.state_text = "stopped early, as asked";
  } else if (!reason.empty()) {
    outline.state = RunState::done;
    outline.state_text = "done";
  } else if (run.is_running) {
    outline.state = RunState::running;
    outline.state_text = "running";
  } else {
    outline.state_text = "not finished";
  }
}

double training_seconds(const std::vector<Record>& records) {
  double ms = 0;
  int64_t before = 0;
  for (const Record& record : records) {
    ms += record.step_ms * static_cast<double>(std::max<int64_t>(0, record.step - before));
    before = record.step;
  }
  return ms / 1000;
}

}  // namespace

Outline outline(const RunFiles& run) {
  Outline outline;
  set_state(run, outline);
  const Json& max_iters = value_at(run.card, {"length", "max_iters"});
  if (max_iters.is_number()) outline.max_iters = max_iters.get<int64_t>();
  if (run.records.empty()) return outline;
  const Record& last = run.records.back();
  outline.step = last.step;
  outline.epoch = last.epoch;
  if (std::isfinite(last.loss)) outline.loss = last.loss;
  std::vector<double> speeds;
  for (const Record& record : run.records) {
    if (record.val_loss && std::isfinite(*record.val_loss)) {
      outline.last_val_loss = record.val_loss;
      if (!outline.best_val_loss || *record.val_loss < *outline.best_val_loss) {
        outline.best_val_loss = record.val_loss;
        outline.best_step = record.step;
      }
    }
    if (std::isfinite(record.tokens_per_s) && record.tokens_per_s > 0)
      speeds.push_back(record.tokens_per_s);
  }
  if (speeds.size() > 20) speeds.erase(speeds.begin(), speeds.end() - 20);
  if (!speeds.empty()) outline.tokens_per_s = median(speeds);
  outline.seconds = training_seconds(run.records);
  if (outline.max_iters > last.step && last.step > 0)
    outline.seconds_left = outline.seconds / static_cast<double>(last.step) *
                           static_cast<double>(outline.max_iters - last.step);
  return outline;
}

std::string summary_sentence(const RunFiles& run) {
  const Outline o = outline(run);
  std::string text = o.state_text;
  if (!text.empty()) text[0] = static_cast<char>(std::toupper(static_cast<unsigned char>(text[0])));
  text += o.max_iters > o.step
              ? fmt::format(" at step {} of {}", grouped(o.step), grouped(o.max_iters))
              : fmt::format(" after {} steps", grouped(o.step));
  text += fmt::format(" ({:.2f} epochs", o.epoch);
  if (!run.records.empty()) text += fmt::format(", {} tokens", grouped(run.records.back().tokens));
  text += fmt::format(") in {}", human_duration(o.seconds));
  if (o.state == RunState::running && o.seconds_left > 0)
    text += fmt::format(", {} left", human_duration(o.seconds_left));
  if (o.best_val_loss)
    text += fmt::format(": best validation loss {:.4f} (perplexity {:.2f}) at step {}",
                        *o.best_val_loss, std::exp(*o.best_val_loss), grouped(o.best_step));
  else if (o.loss)
    text += fmt::format(": training loss {:.4f}", *o.loss);
  const auto warnings = std::count_if(run.signs.begin(), run.signs.end(), [](const Sign& sign) {
    return sign.level == Sign::Level::warning;
  });
  text += warnings == 0 ? "; no warning signs."
                        : fmt::format("; {} warning sign{}.", warnings, warnings == 1 ? "" : "s");
  return text;
}

std::string grouped(int64_t value) {
  std::string digits = std::to_string(value);
  const int first = value < 0 ? 1 : 0;
  for (int i = static_cast<int>(digits.size()) - 3; i > first; i -= 3)
    digits.insert(static_cast<size_t>(i), ",");
  return digits;
}

std::string percent(double part, double whole) {
  return whole > 0 ? fmt::format("{:.1f} %", 100 * part / whole) : "–";
}

std::string value_text(const Json& value) {
  if (value.is_null()) return "derived";
  if (value.is_string()) return value.get<std::string>().empty() ? "–" : value.get<std::string>();
  if (value.is_array()) {
    std::string text;
    for (const Json& item : value) text += (text.empty() ? "" : ", ") + value_text(item);
    return text.empty() ? "–" : text;
  }
  return value.dump(-1, ' ', false, Json::error_handler_t::replace);
}

}  // namespace train_sft
