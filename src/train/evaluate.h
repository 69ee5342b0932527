// Validation loss and what follows from it: best checkpoint, early stop.
#pragma once

#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "train/run_setup.h"

namespace train_sft {

struct EvaluationLosses {
  std::optional<double> val_loss;                          // none without validation data
  std::vector<std::pair<std::string, double>> set_losses;  // of --eval_data, by name
};

// Σ weighted losses / Σ weights over the same rows each time, whatever the batch size. Rows from
// the front: all of them, or as many as eval_batches micro-batches hold. Nothing when a stop was
// asked for meanwhile: an evaluation may take longer than a person or a scheduler waits.
std::optional<EvaluationLosses> evaluate(Run& run);

// Logs what the named sets cost before the first step: later losses are held against it.
void log_eval_sets_at_start(Run& run);

// Keeps best and the early-stop counter in run.state. True when the loss is the best so far.
bool note_validation(TrainState& state, double loss, double min_delta);

}  // namespace train_sft
