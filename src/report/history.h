// A run's records so far, with what several rules ask of them.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "report/statistics.h"
#include "train_sft/report/record.h"

namespace train_sft {

// Records a rule looks back over: a step's loss and gradient are noisy, the median of ten is not.
inline constexpr size_t kWindow = 10;

struct Evaluation {
  int64_t step = 0;
  double loss = 0;
};

// The extreme median of kWindow records in a row, and the step of the last of them.
struct Extreme {
  double median = 0;
  int64_t step = 0;
};

class History {
 public:
  void add(const Record& record);

  const std::vector<Record>& records() const { return records_; }
  const Record& last() const { return records_.back(); }
  // Records since the learning rate stopped rising for the first time: warm-up is over.
  size_t after_warmup() const { return after_warmup_; }
  double peak_lr() const { return peak_lr_; }

  // The last `count` values, or fewer when there are not as many; finite ones only.
  std::vector<double> last_values(double Record::*field, size_t count, size_t skip_last = 0) const;
  // The last `count` training losses up to a step; fewer when there are not as many.
  std::vector<double> losses_until(int64_t step, size_t count) const;

  const LevelOfRanges& finite_losses() const { return finite_losses_; }

  // Over records after the first kWindow: at the start there is nothing to compare with.
  const std::optional<Extreme>& lowest_loss() const { return lowest_loss_; }
  const std::optional<Extreme>& lowest_grad_norm() const { return lowest_grad_norm_; }
  const std::optional<Extreme>& highest_throughput() const { return highest_throughput_; }

  const std::vector<Evaluation>& evaluations() const { return evaluations_; }
  const std::map<std::string, std::vector<Evaluation>>& named() const { return named_; }

 private:
  void track_extremes();

  std::vector<Record> records_;
  std::vector<Evaluation> evaluations_;
  std::map<std::string, std::vector<Evaluation>> named_;
  LevelOfRanges finite_losses_;
  size_t after_warmup_ = 0;
  double peak_lr_ = 0;
  std::optional<Extreme> lowest_loss_, lowest_grad_norm_, highest_throughput_;
};

}  // namespace train_sft
