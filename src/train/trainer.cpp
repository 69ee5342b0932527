#include "train_sft/train/trainer.h"

#include <utility>

#include "train/ending.h"
#include "train/evaluate.h"
#include "train/histograms.h"
#include "train/rollback.h"
#include "train/run_setup.h"
#include "train/samples.h"
#include "train/step.h"
#include "train_sft/base/log.h"

namespace train_sft {
namespace {

// The run's log file, closed whichever way training ends.
struct LogFileScope {
  ~LogFileScope() { log::set_file(""); }
};

bool is_due(int64_t step, int64_t interval) {
  return interval > 0 && step % interval == 0;
}

struct Due {
  bool log, evaluate, sample;
};

Due what_is_due(const Run& run, int64_t step) {
  const TrainConfig& config = run.config();
  const bool last = step >= run.schedule.max_iters;
  Due due;
  const bool evaluates = run.evaluates() || (!run.eval_sets.empty() && config.eval_interval > 0);
  due.evaluate = evaluates && (is_due(step, config.eval_interval) || last);
  due.log = is_due(step, config.log_interval) || step == 1 || last || due.evaluate;
  due.sample = is_due(step, config.sample_interval);
  return due;
}

// Without a save_interval: with each evaluation, or every 1000 steps when there is none.
bool save_is_due(const Run& run, int64_t step, bool evaluated) {
  const int64_t interval = run.config().save_interval;
  if (interval > 0) return is_due(step, interval);
  return run.evaluates() ? evaluated : is_due(step, kDefaultSaveInterval);
}

// Whether weights or gradients are read after the step that comes: then a device may not begin the
// one after it.
bool reads_weights_after_next(const Run& run) {
  const int64_t step = run.state.step + 1;
  const Due due = what_is_due(run, step);
  return due.evaluate || due.sample || save_is_due(run, step, due.evaluate) ||
         is_due(step, run.config().histogram_interval);
}

bool out_of_patience(const Run& run) {
  const int64_t patience = run.config().early_stop_patience;
  if (patience == 0 || run.state.evals_since_best < patience) return false;
  log::info("stopping early: no better validation loss in {} evaluations; best {:.4f} at step {}",
            patience, run.state.best_val_loss, run.state.best_step);
  return true;
}

// What people and tools read of a step; of many processes the first alone writes it.
void write_records(Loop& loop, const Due& due, const StepOutcome& outcome,
                   const EvaluationLosses& evaluation) {
  Run& run = loop.run;
  if (due.log || outcome.skipped)
    for (const Sign& sign : loop.reporter.report(outcome, evaluation))
      tell(loop, "sign", to_json(sign));
  write_histograms(run, outcome);
  if (due.evaluate) loop.page.update(run);
  const bool diverged = run.state.bad_steps >= run.config().max_bad_steps;
  if (due.sample && !diverged) write_samples(run, loop.prompts);
}

// What follows a step: evaluate, report, sample, save. An ending, when the run ends here.
std::optional<Ending> after_step(Loop& loop, const StepOutcome& outcome) {
  Run& run = loop.run;
  const Due due = what_is_due(run, run.state.step);
  bool improved = false;
  EvaluationLosses evaluation;
  if (due.evaluate) {
    auto evaluated = evaluate(run);
    if (!evaluated) {  // stopped within: a resume begins with this evaluation
      run.state.unreported = to_json(outcome);
      return Ending::signal;
    }
    loop.evaluation = evaluation = std::move(*evaluated);
    if (evaluation.val_loss)
      improved = note_validation(run.state, *evaluation.val_loss, run.config().min_delta);
  }
  // Records, samples and saves are the first rank's alone.
  const LongWork takes_its_time(run.collective);
  if (run.writes()) write_records(loop, due, outcome, evaluation);
  if (run.state.bad_steps >= run.config().max_bad_steps) return Ending::diverged;

  take_saved(loop);
  const bool saves = run.state.bad_steps == 0 &&  // it would push a good one out
                     save_is_due(run, run.state.step, due.evaluate);
  const bool wanted = outcome.save_asked || improved || saves;
  if (wanted && !save(loop)) return Ending::diverged;
  if (evaluation.val_loss && out_of_patience(run)) return Ending::early_stop;
  return std::nullopt;
}

Ending run_to_an_ending(Loop& loop) {
  Run& run = loop.run;
  if (out_of_patience(run)) return Ending::early_stop;  // a run resumed after it had stopped
  if (!run.state.unreported.is_null()) {
    const StepOutcome outcome = step_outcome_from_json(std::exchange(run.state.unreported, Json()));
    if (const auto ending = after_step(loop, outcome)) return *ending;
  }
  while (run.state.step < run.schedule.max_iters) {
    const StepOutcome outcome =
        // data → forward, backward → clip, update
        loop.profile.take_step(run, !reads_weights_after_next(run));
    if (outcome.interrupted) return Ending::signal;
    loop.reporter.step_done(outcome);
    if (run.writes()) {
      const LongWork takes_its_time(run.collective);
      run.examples->step_done(run);
    }
    if (const auto ending = after_step(loop, outcome)) return *ending;
  }
  return Ending::max_iters;
}

Ending run_loop(Loop& loop) {
  while (true) {
    const Ending ending = run_to_an_ending(loop);
    if (ending != Ending::diverged || !roll_back(loop)) return ending;
  }
}

}  // namespace

TrainingResult train(const Settings& settings, Collective& collective) {
  const LogFileScope log_file;
  const std::unique_ptr<Run> run = set_up_run(settings, collective);
  if (run->state.step == 0) log_eval_sets_at_start(*run);
  Loop loop(*run);
  if (run->state.step >= run->schedule.max_iters)
    log::info("all {} steps are done; to go on: --resume auto --extend_steps N", run->state.step);
  return finish(loop, run_loop(loop));
}

}  // namespace train_sft
