// Learning rate as a function of the step: lr(s), s = 0 … max_iters-1.
//   warm-up:  peak × (s+1)/W
//   plateau:  peak            (warmup_plateau_cosine)
//   decay:    peak → min_lr, reached at s = max_iters-1; cosine, linear, or constant (none)
#pragma once

#include <cstdint>
#include <string>

#include "train_sft/config/run_shape.h"

namespace train_sft {

struct Schedule {
  std::string kind = "cosine";
  int64_t first_step = 0;   // an extended run's new schedule begins here
  int64_t max_iters = 0;    // last step + 1
  int64_t warmup_iters = 0;
  int64_t plateau_iters = 0;
  double peak_lr = 0;
  double min_lr = 0;

  double lr(int64_t step) const;
};

Schedule make_schedule(const TrainConfig& config, const RunShape& shape, int64_t first_step = 0);

}  // namespace train_sft
