// How a run begins: new, resumed, extended, or from another model's weights. Decided from settings
// and the files that are there, before anything is loaded or written.
#pragma once

#include <optional>
#include <string>

#include "train_sft/config/options.h"
#include "train_sft/train/checkpoint.h"

namespace train_sft {

enum class StartKind {
  fresh,    // new weights, step 0
  resume,   // goes on bit for bit
  extend,   // weights, moments and step; a new schedule from there
  weights,  // weights only, step 0
};

struct StartPlan {
  StartKind kind = StartKind::fresh;
  std::string checkpoint;           // directory; empty for a new run
  std::optional<TrainState> state;  // of the checkpoint, for resume and extend
  Settings settings;                // in force, out_dir resolved; resume and the like cleared
  std::string said;                 // for the log: what was decided and why
  bool may_reuse_out_dir = false;   // the run in out_dir is this one
};

// Throws UsageError and CheckpointError, naming the setting that does not fit.
StartPlan plan_start(const Settings& given);

}  // namespace train_sft
