// run.json: what `report` and `watch` show of a run beside its curves. See report/run_files.h.
#pragma once

#include "train/run_setup.h"

namespace train_sft {

// At the start; a resume keeps the list of earlier starts. A card that cannot be written is a
// warning: it must not stop a run.
void write_run_card(const Run& run);

// report.html beside it: after evaluations, and at the end.
class RunPage {
 public:
  // Unless writing it would take more than a small part of the time.
  void update(const Run& run);
  // At the end: how the run ended, and its summary, go into the card, too.
  void finish(const Run& run, const Json& summary);

 private:
  double written_at_ = -1e9, took_ = 0;  // seconds
};

}  // namespace train_sft
