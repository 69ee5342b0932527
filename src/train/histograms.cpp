#include "train/histograms.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "train/tensor_bytes.h"

namespace train_sft {
namespace {

constexpr size_t kBins = 64;

std::span<const float> values_of(const at::Tensor& tensor) {
  return {tensor.const_data_ptr<float>(), static_cast<size_t>(tensor.numel())};
}

}  // namespace

Histogram histogram_of(std::span<const float> values, double scale) {
  Histogram histogram;
  histogram.min = std::numeric_limits<double>::infinity();
  histogram.max = -histogram.min;
  for (const float raw : values) {
    const double value = scale * static_cast<double>(raw);
    if (!std::isfinite(value)) continue;
    histogram.min = std::min(histogram.min, value);
    histogram.max = std::max(histogram.max, value);
    histogram.sum += value;
    histogram.sum_squares += value * value;
    ++histogram.count;
  }
  if (histogram.count == 0) histogram.min = histogram.max = 0;
  const double width = (histogram.max - histogram.min) / kBins;
  const size_t bins = width > 0 ? kBins : 1;
  histogram.counts.assign(bins, 0);
  for (size_t bin = 1; bin < bins; ++bin)
    histogram.limits.push_back(histogram.min + width * static_cast<double>(bin));
  histogram.limits.push_back(histogram.max);
  for (const float raw : values) {
    const double value = scale * static_cast<double>(raw);
    if (!std::isfinite(value)) continue;
    const double bin = width > 0 ? (value - histogram.min) / width : 0;
    ++histogram.counts[std::min(bins - 1, static_cast<size_t>(bin))];
  }
  return histogram;
}

void write_histograms(Run& run, const StepOutcome& outcome) {
  const int64_t interval = run.config().histogram_interval;
  if (interval == 0 || run.state.step % interval != 0 || !run.metrics->has_tensorboard()) return;
  for (const ParameterInfo& info : run.parameters->layout().parameters) {
    if (!info.trained()) continue;
    run.metrics->histogram("weights/" + info.name, run.state.step,
                           histogram_of(values_of(on_cpu(run.parameters->master(info.name))), 1));
    if (outcome.weight <= 0) continue;  // nothing learned, or a step from before a resume
    run.metrics->histogram(
        "gradients/" + info.name, run.state.step,
        histogram_of(values_of(on_cpu(run.parameters->gradient(info.name))), 1 / outcome.weight));
  }
}

}  // namespace train_sft
