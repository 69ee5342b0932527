// The training run, from settings to the final checkpoint.
#pragma once

#include <string>

#include "train_sft/base/error.h"
#include "train_sft/base/json.h"
#include "train_sft/collective/collective.h"
#include "train_sft/config/options.h"

namespace train_sft {

struct TrainingResult {
  ExitCode code = ExitCode::ok;  // interrupted, terminated or diverged when it ended so
  std::string stopped_by;        // "max_iters", "early_stop", "signal"
  Json summary;                  // of --json: step, loss, val_loss, best_step, checkpoint, ...
};

// Data → model → optimizer → loop: step, log, evaluate, sample, save. Throws Error. Every process
// of the collective calls it with the same settings; files are written by the first.
TrainingResult train(const Settings& settings, Collective& collective = single_process());

}  // namespace train_sft
