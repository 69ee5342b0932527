#include "train_sft/train/schedule.h"

#include <algorithm>
#include <cmath>
#include <numbers>

#include "train_sft/base/error.h"

namespace train_sft {

double Schedule::lr(int64_t step) const {
  const int64_t s = step - first_step;
  const int64_t length = max_iters - first_step;
  if (s < warmup_iters)
    return peak_lr * static_cast<double>(s + 1) / static_cast<double>(warmup_iters);
  const int64_t decay_begin = warmup_iters + plateau_iters;
  if (kind == "constant" || s < decay_begin) return peak_lr;
  const int64_t decay_last = length - 1;
  if (s >= decay_last) return min_lr;  // exactly, whatever the rounding of cos
  const double progress =
      static_cast<double>(s - decay_begin) / static_cast<double>(decay_last - decay_begin);
  const double remaining =
      kind == "linear" ? 1.0 - progress : 0.5 * (1.0 + std::cos(std::numbers::pi * progress));
  return min_lr + (peak_lr - min_lr) * remaining;
}

Schedule make_schedule(const TrainConfig& config, const RunShape& shape, int64_t first_step) {
  TRAIN_SFT_CHECK(first_step >= 0 && first_step < shape.max_iters, "a schedule from {} to {}",
                  first_step, shape.max_iters);
  Schedule schedule;
  schedule.kind = config.lr_schedule;
  schedule.first_step = first_step;
  schedule.max_iters = shape.max_iters;
  schedule.peak_lr = shape.peak_lr;
  schedule.min_lr = shape.min_lr;
  if (first_step == 0) {
    schedule.warmup_iters = shape.warmup_iters;
    if (config.lr_schedule == "warmup_plateau_cosine") schedule.plateau_iters = shape.plateau_iters;
  }
  return schedule;
}

Json to_json(const Schedule& schedule) {
  return {{"kind", schedule.kind},
          {"first_step", schedule.first_step},
          {"max_iters", schedule.max_iters},
          {"warmup_iters", schedule.warmup_iters},
          {"plateau_iters", schedule.plateau_iters},
          {"peak_lr", schedule.peak_lr},
          {"min_lr", schedule.min_lr}};
}

Schedule schedule_from_json(const Json& json, const std::string& where) {
  Schedule schedule;
  schedule.kind = json_string(json, "kind", where);
  schedule.first_step = json_int(json, "first_step", where);
  schedule.max_iters = json_int(json, "max_iters", where);
  schedule.warmup_iters = json_int(json, "warmup_iters", where);
  schedule.plateau_iters = json_int(json, "plateau_iters", where);
  schedule.peak_lr = json_number(json, "peak_lr", where);
  schedule.min_lr = json_number(json, "min_lr", where);
  return schedule;
}

}  // namespace train_sft
