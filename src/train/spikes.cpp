#include "train/spikes.h"

#include <algorithm>
#include <cmath>

namespace train_sft {
namespace {

constexpr size_t kWindow = 100;  // steps
constexpr size_t kEnoughSteps = 20;
// A window of nearly equal values: what differs by less than this part of their mean is no spike.
constexpr double kSmallestDeviation = 0.01;

struct Spread {
  double mean = 0, deviation = 0;
  bool is_known = false;
};

Spread spread_of(const std::vector<double>& window) {
  Spread spread;
  if (window.size() < kEnoughSteps) return spread;
  const auto count = static_cast<double>(window.size());
  for (const double value : window) spread.mean += value / count;
  double variance = 0;
  for (const double value : window)
    variance += (value - spread.mean) * (value - spread.mean) / count;
  spread.deviation = std::max(std::sqrt(variance), kSmallestDeviation * std::abs(spread.mean));
  spread.is_known = spread.deviation > 0;
  return spread;
}

double score(const std::vector<double>& window, double value) {
  const Spread spread = spread_of(window);
  return spread.is_known ? (value - spread.mean) / spread.deviation : 0;
}

double highest_without_spike(const std::vector<double>& window, double limit) {
  const Spread spread = spread_of(window);
  return spread.is_known ? spread.mean + limit * spread.deviation : StepLimits().loss;
}

void add(std::vector<double>& window, double value, double limit) {
  const Spread spread = spread_of(window);
  if (spread.is_known) value = std::min(value, spread.mean + limit * spread.deviation);
  window.push_back(value);
  if (window.size() > kWindow) window.erase(window.begin());
}

}  // namespace

SpikeScore spike_score(const TrainState& state, double loss, double grad_norm) {
  return {score(state.recent_losses, loss), score(state.recent_grad_norms, grad_norm)};
}

void remember_step(TrainState& state, double loss, double grad_norm, double limit) {
  add(state.recent_losses, loss, limit);
  add(state.recent_grad_norms, grad_norm, limit);
}

StepLimits step_limits(const TrainState& state, double limit) {
  if (state.spikes_skipped >= kMostSkippedInARow) return {};
  return {highest_without_spike(state.recent_losses, limit),
          highest_without_spike(state.recent_grad_norms, limit)};
}

StepLimits limits_of_step(const TrainState& state, int64_t ahead) {
  const auto place = static_cast<size_t>(ahead);
  return place < state.step_limits.size() ? state.step_limits[place] : StepLimits();
}

void move_limits(TrainState& state, const StepLimits& next) {
  state.step_limits = {limits_of_step(state, 1), next};
}

}  // namespace train_sft
