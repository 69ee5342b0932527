// How a run ends: the reason, what is saved and said, the exit code and the summary.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "train/checkpoint_saver.h"
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
  EventHook hook;  // on_event
  StepProfile profile;
  CheckpointSaver saver;
  std::vector<std::vector<int32_t>> prompts;  // of samples
  std::string checkpoint;                     // the last one saved, or the one begun from
  int64_t saved_step;                         // of the last one saved or in flight; -1: none
  EvaluationLosses evaluation;                // the last one
};

// Tells the person's own command (on_event): the event's name, run, step, and `more`.
void tell(Loop& loop, const char* event, const Json& more);
// Begins to save run.state.step, to move the links and thin older checkpoints. What goes wrong is
// said and tried again: training goes on. False when the weights are not finite: those are not
// saved.
bool save(Loop& loop);
// Says how a save in flight has ended; with wait, when it ends.
void take_saved(Loop& loop, bool wait = false);
// Saves what is not saved yet, unless the run diverged, and says how it ended.
TrainingResult finish(Loop& loop, Ending ending);

}  // namespace train_sft
