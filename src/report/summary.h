// What the page, the model card and `watch` say of a run in words.
#pragma once

#include <cmath>
#include <optional>
#include <string>

#include "train_sft/report/run_files.h"

namespace train_sft {

enum class RunState { running, done, stopped, diverged, unknown };

struct Outline {
  RunState state = RunState::unknown;
  std::string state_text;           // "done", "running", "stopped early", …
  int64_t step = 0, max_iters = 0;  // max_iters 0: not known
  double epoch = 0;
  std::optional<double> loss;  // of the last record
  std::optional<double> best_val_loss, last_val_loss;
  int64_t best_step = -1;
  double tokens_per_s = 0;  // median of the last records
  double seconds = 0;       // of training steps, in all
  double seconds_left = 0;  // when running
};

Outline outline(const RunFiles& run);

std::string grouped(int64_t value);              // 12,645,675
std::string percent(double part, double whole);  // 12.3 %
// A setting's value as a person would write it.
std::string value_text(const Json& value);

}  // namespace train_sft
