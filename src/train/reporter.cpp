#include "train/reporter.h"

#include <cmath>

#include "train_sft/base/file.h"
#include "train_sft/base/log.h"
#include "train_sft/base/memory.h"

namespace train_sft {
namespace {

double per_second(int64_t count, double ms) {
  return ms > 0 ? static_cast<double>(count) / ms * 1000 : 0;
}

}  // namespace

Reporter::Reporter(Run& run)
    : run_(run),
      bar_("training", static_cast<uint64_t>(run.schedule.max_iters)),
      begin_(std::chrono::steady_clock::now()),
      first_step_(run.state.step) {}

double Reporter::seconds() const {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - begin_).count();
}

double Reporter::tokens_per_s() const {
  return per_second(all_tokens_, all_ms_);
}

// From the wall time so far: evaluation and saving take their part of what is left, too.
double Reporter::eta_seconds() const {
  const int64_t done = run_.state.step - first_step_;
  const int64_t left = run_.schedule.max_iters - run_.state.step;
  return done > 0 ? seconds() / static_cast<double>(done) * static_cast<double>(left) : 0;
}

void Reporter::step_done(const StepOutcome& outcome) {
  ++steps_;
  tokens_ += outcome.tokens;
  all_tokens_ += outcome.tokens;
  steps_ms_ += outcome.step_ms;
  all_ms_ += outcome.step_ms;
  data_wait_ms_ += outcome.data_wait_ms;
  last_loss_ = outcome.loss;
  if (!run_.writes()) return;
  bar_.update(static_cast<uint64_t>(run_.state.step),
              fmt::format("loss {:.4f} · {} tok/s · {} left", outcome.loss,
                          human_count(tokens_per_s()), human_duration(eta_seconds())));
}

// The signs follow from the records. Those before a resume (or a rollback) are in metrics.jsonl,
// cut back to where the run goes on from.
void Reporter::add_signs(StepMetrics& metrics) {
  if (metrics.step <= signs_step_ || signs_step_ < 0) {
    signs_ = SignWatch();
    for (const Record& record : read_records(join_path(run_.out_dir, "metrics.jsonl")))
      if (record.step < metrics.step) signs_.add(record);
  }
  signs_step_ = metrics.step;
  metrics.signs = signs_.add(record_from_json(to_json(metrics)));
}

std::vector<Sign> Reporter::report(const StepOutcome& outcome, const EvaluationLosses& evaluation) {
  const TrainState& state = run_.state;
  StepMetrics metrics;
  metrics.step = state.step;
  metrics.epoch = run_.epoch();
  metrics.tokens = state.tokens;
  metrics.examples = state.examples;
  metrics.loss = outcome.loss;
  metrics.lr = outcome.lr;
  metrics.grad_norm = outcome.grad_norm;
  metrics.tokens_per_s = per_second(tokens_, steps_ms_);
  metrics.step_ms = steps_ms_ / static_cast<double>(std::max<int64_t>(1, steps_));
  metrics.data_wait_ms = data_wait_ms_ / static_cast<double>(std::max<int64_t>(1, steps_));
  metrics.memory_bytes = resident_bytes();
  metrics.memory_limit_bytes = metrics.memory_bytes + available_memory_bytes();
  metrics.skipped = outcome.skipped;
  metrics.spikes = state.spikes;
  metrics.val_loss = evaluation.val_loss;
  metrics.eval_losses = {evaluation.set_losses.begin(), evaluation.set_losses.end()};
  add_signs(metrics);
  run_.metrics->write(metrics);

  std::string line = fmt::format(
      "step {}/{} | epoch {:.3f} | loss {:.4f} | lr {:.3e} | norm {:.3f} | {} tok/s | {:.1f} ms | "
      "{} left",
      state.step, run_.schedule.max_iters, metrics.epoch, outcome.loss, outcome.lr,
      outcome.grad_norm, human_count(metrics.tokens_per_s), metrics.step_ms,
      human_duration(eta_seconds()));
  if (outcome.skipped) line += " | skipped";
  if (evaluation.val_loss)
    line +=
        fmt::format(" | val loss {:.4f}, perplexity {:.2f}{}", *evaluation.val_loss,
                    std::exp(*evaluation.val_loss), state.best_step == state.step ? " (best)" : "");
  for (const auto& [name, loss] : evaluation.set_losses)
    line += fmt::format(" | {} loss {:.4f}", name, loss);
  log::info("{}", line);
  for (const Sign& sign : metrics.signs) {
    if (sign.level == Sign::Level::warning)
      log::warning("sign {}: {}. {}", sign.rule, sign.evidence, sign.advice);
    else
      log::info("sign {}: {}", sign.rule, sign.evidence);
  }
  steps_ = tokens_ = 0;
  steps_ms_ = data_wait_ms_ = 0;
  return metrics.signs;
}

}  // namespace train_sft
