// Learning rate as a function of the step: lr(s), s = 0 … max_iters-1.
//   warm-up:  peak × (s+1)/W
//   plateau:  peak            (warmup_plateau_cosine)
//   decay:    from peak at its first step to min_lr at s = max_iters-1; cosine, linear, or none
//             (constant); a decay of a single step is at min_lr
// An extended run has a new schedule: s then counts from first_step.
#pragma once

#include <cstdint>
#include <string>

#include "train_sft/base/json.h"
#include "train_sft/config/run_shape.h"

namespace train_sft {

struct Schedule {
  std::string kind = "cosine";
  int64_t first_step = 0;  // an extended run's new schedule begins here
  int64_t max_iters = 0;   // last step + 1
  int64_t warmup_iters = 0;
  int64_t plateau_iters = 0;
  double peak_lr = 0;
  double min_lr = 0;

  double lr(int64_t step) const;
  bool operator==(const Schedule&) const = default;
};

// first_step > 0: the schedule of a run extended there, up to shape.max_iters, without a warm-up
// (the moments are warm) and without a plateau.
Schedule make_schedule(const TrainConfig& config, const RunShape& shape, int64_t first_step = 0);

Json to_json(const Schedule& schedule);
Schedule schedule_from_json(const Json& json, const std::string& where);

}  // namespace train_sft
