// The line a logged step prints, the progress bar, the record in metrics.jsonl and its signs.
#pragma once

#include <chrono>
#include <cstdint>
#include <optional>

#include "train/evaluate.h"
#include "train/run_setup.h"
#include "train/step.h"
#include "train_sft/base/progress.h"
#include "train_sft/report/signs.h"

namespace train_sft {

class Reporter {
 public:
  explicit Reporter(Run& run);
  // After every step; moves the progress bar and adds up what the next record averages over.
  void step_done(const StepOutcome& outcome);
  // Writes the record and the line of the step just done; the signs seen at it.
  std::vector<Sign> report(const StepOutcome& outcome, const EvaluationLosses& evaluation);
  double seconds() const;       // since the loop began
  double tokens_per_s() const;  // of the steps alone, in all
  double last_loss() const { return last_loss_; }

 private:
  double eta_seconds() const;
  void add_signs(StepMetrics& metrics);

  Run& run_;
  ProgressBar bar_;
  std::chrono::steady_clock::time_point begin_;
  int64_t first_step_;
  SignWatch signs_;  // has seen the records up to signs_step_
  int64_t signs_step_ = -1;
  double last_loss_ = 0;
  int64_t steps_ = 0, tokens_ = 0;          // since the last record
  double steps_ms_ = 0, data_wait_ms_ = 0;  // since the last record
  int64_t all_tokens_ = 0;
  double all_ms_ = 0;
};

}  // namespace train_sft
