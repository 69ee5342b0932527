#include "report/history.h"

#include <algorithm>
#include <cmath>
#include <functional>
namespace train_sft {
namespace {

template <typename Better>
void keep(std::optional<Extreme>& extreme, std::vector<double> values, int64_t step,
          Better better) {
  if (values.size() < kWindow) return;
  const double now = median(std::move(values));
  if (!extreme || better(now, extreme->median)) extreme = Extreme{now, step};
}

}  // namespace

void History::add(const Record& record) {
  const bool rises = record.lr > peak_lr_;
  peak_lr_ = std::max(peak_lr_, record.lr);
  if (after_warmup_ > 0 || (!records_.empty() && !rises)) ++after_warmup_;
  records_.push_back(record);
  if (record.val_loss && std::isfinite(*record.val_loss))
    evaluations_.push_back({record.step, *record.val_loss});
  for (const auto& [name, loss] : record.eval_losses)
    if (std::isfinite(loss)) named_[name].push_back({record.step, loss});
  if (std::isfinite(record.loss)) finite_losses_.add(record.loss);
  track_extremes();
}

std::vector<double> History::last_values(double Record::*field, size_t count,
                                         size_t skip_last) const {
  std::vector<double> values;
  for (size_t i = records_.size() - std::min(skip_last, records_.size());
       i-- > 0 && values.size() < count;)
    if (std::isfinite(records_[i].*field)) values.push_back(records_[i].*field);
  std::reverse(values.begin(), values.end());
  return values;
}

std::vector<double> History::losses_until(int64_t step, size_t count) const {
  std::vector<double> values;
  for (auto record = records_.rbegin(); record != records_.rend() && values.size() < count;
       ++record)
    if (record->step <= step && std::isfinite(record->loss)) values.push_back(record->loss);
  return values;
}

void History::track_extremes() {
  const int64_t step = last().step;
  keep(lowest_loss_, last_values(&Record::loss, kWindow), step, std::less<>());
  if (after_warmup_ >= kWindow)
    keep(lowest_grad_norm_, last_values(&Record::grad_norm, kWindow), step, std::less<>());
  keep(highest_throughput_, last_values(&Record::tokens_per_s, kWindow), step, std::greater<>());
}

}  // namespace train_sft
