// How a run ends: the reason, what is saved and said, the exit code and the summary.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "train/event_hook.h"
#include "train/reporter.h"
#include "train/run_card.h"
#include "train/run_setup.h"
#include "train/step_profile.h"
#include "train_sft/train/trainer.h"

namespace train_sft {

enum class Ending { max_iters, early_stop, signal, diverged };

// What the loop keeps beside the run's own state.
struct Loop {
  explicit Loop(Run& run);

  Run& run;
  Reporter reporter;
  RunPage page;
  EventHook hook;                             // on_event
  StepProfile profile;
  std::vector<std::vector<int32_t>> prompts;  // of samples
  std::string checkpoint;                     // the last one saved, or the one begun from
  int64_t saved_step;
  EvaluationLosses evaluation;  // the last one
};

// Tells the person's own command (on_event): the event's name, run, step, and `more`.
void tell(Loop& loop, const char* event, const Json& more);
// Saves run.state.step, moves the links, thins older checkpoints. False when the weights are not
// finite: those are not saved.
bool save(Loop& loop);
// Saves what is not saved yet, unless the run diverged, and says how it ended.
TrainingResult finish(Loop& loop, Ending ending);

}  // namespace train_sft
