#include "train_sft/plan/step_time.h"

#include <ATen/Parallel.h>
#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <vector>

#include "train_sft/base/rng.h"
#include "train_sft/base/signals.h"
#include "train_sft/config/parameter_layout.h"
#include "train_sft/model/engine.h"
#include "train_sft/ops/kernels.h"
#include "train_sft/train/memory_plan.h"
#include "train_sft/train/optimizer.h"

namespace train_sft {
namespace {

using Clock = std::chrono::steady_clock;

// A micro-batch that takes longer than this by a rough estimate is measured on fewer rows, then on
// fewer layers.
constexpr double kPatientSeconds = 4;
constexpr double kRoughFlopsPerThread = 8e10;

double median(std::vector<double> values) {
  if (values.empty()) return 0;
  std::sort(values.begin(), values.end());
  const size_t n = values.size();
  return n % 2 == 1 ? values[n / 2] : (values[n / 2 - 1] + values[n / 2]) / 2;
}

template <typename F>
double milliseconds(F&& f) {
  const auto begin = Clock::now();
  f();
  return std::chrono::duration<double, std::milli>(Clock::now() - begin).count();
}

Batch full_rows(int64_t rows, int64_t block, int64_t vocab) {
  Batch batch;
  batch.cu_seqlens.push_back(0);
  const CounterRng random(/*seed=*/1, /*stream=*/0);
  const auto token = [&](size_t place) {
    return static_cast<int32_t>(random.bits(place) % static_cast<uint64_t>(vocab));
  };
  for (int64_t r = 0; r < rows; ++r) {
    for (int64_t i = 0; i < block; ++i) {
      const size_t place = batch.tokens.size();
      batch.learned.push_back(static_cast<int32_t>(place));
      batch.tokens.push_back(token(place));
      batch.targets.push_back(token(place + 1));
      batch.positions.push_back(static_cast<int32_t>(i));
    }
    batch.cu_seqlens.push_back(static_cast<int32_t>(batch.tokens.size()));
    batch.example_ids.push_back(static_cast<uint64_t>(r));
  }
  batch.max_seqlen = static_cast<int32_t>(block);
  batch.rows = rows;
  return batch;
}

// Milliseconds a token for forward and backward, and for forward alone; an update's milliseconds.
struct Rates {
  double train = 0, evaluate = 0, update = 0;
};

Rates measure(const Probe& probe, const ModelConfig& model, int64_t rows) {
  Training training = training_of(probe.config);
  if (model.n_layer != probe.model.n_layer) training.freeze.clear();  // they name other layers
  Parameters parameters(model, at::kFloat, probe.precision == "bf16" ? at::kBFloat16 : at::kFloat,
                        true, training);
  initialise(parameters, /*seed=*/1);
  initialise_adapters(parameters, /*seed=*/1);
  parameters.zero_gradients();
  Optimizer optimizer(parameters, optimizer_options(probe.config));
  EngineOptions options;
  options.dropout = probe.config.dropout;
  options.recompute = parse_recompute(probe.config.recompute);
  Engine engine(parameters, options);
  const int64_t block = probe.config.block_size;
  const auto next = [&](int64_t i) {
    return probe.micro_batch && rows == probe.micro_rows ? probe.micro_batch(i)
                                                         : full_rows(rows, block, model.vocab_size);
  };
  std::vector<double> train, evaluate, update;
  for (int64_t i = 0; i <= probe.steps && !signals::stop_requested(); ++i) {
    const Batch batch = next(i);
    if (batch.size() == 0 || batch.learned.empty()) continue;
    const auto tokens = static_cast<double>(batch.size());
    LossSums sums;
    const double ms = milliseconds([&] { sums = engine.forward_backward(batch, 0); });
    const double updated = milliseconds([&] { optimizer.step(1e-6, sums.weight); });
    parameters.zero_gradients();
    if (i == 0) continue;  // pages are touched and panels allocated for the first time
    train.push_back(ms / tokens);
    update.push_back(updated);
    evaluate.push_back(milliseconds([&] { engine.evaluate(batch); }) / tokens);
  }
  return {median(train), median(evaluate), median(update)};
}

struct Reduced {
  int64_t rows;
  bool layers;  // measured on one and two layers
};

Reduced reduce(const Probe& probe) {
  const double flops = flops_per_token(probe.model, probe.config.block_size);
  const double row_seconds = flops * static_cast<double>(probe.config.block_size) /
                             (kRoughFlopsPerThread * static_cast<double>(probe.threads));
  const auto rows =
      std::clamp<int64_t>(static_cast<int64_t>(kPatientSeconds / row_seconds), 1, probe.micro_rows);
  const uint64_t needed = plan_memory(probe.model, probe.config, probe.precision, probe.threads,
                                      rows * probe.config.block_size)
                              .total();
  const bool too_large = probe.available_bytes > 0 && needed > probe.available_bytes / 10 * 9;
  return {rows, probe.model.n_layer > 2 && (too_large || row_seconds > 4 * kPatientSeconds)};
}

// Time is that of the ends of the model and of so many equal layers.
Rates extrapolate(const Rates& one, const Rates& two, int64_t layers) {
  const auto at = [&](double a, double b) {
    return a + std::max(0.0, b - a) * static_cast<double>(layers - 1);
  };
  return {at(one.train, two.train), at(one.evaluate, two.evaluate), at(one.update, two.update)};
}

}  // namespace

double flops_per_token(const ModelConfig& model, int64_t block_size) {
  double weights = 0;
  for (const ParameterInfo& parameter : parameter_layout(model).parameters) {
    const bool looked_up = parameter.layer < 0 &&
                           !(parameter.shape.size() == 2 && parameter.shape[0] == model.vocab_size);
    if (parameter.shape.size() == 2 && !looked_up) weights += static_cast<double>(parameter.numel);
  }
  // Untied, the embedding is only looked up: one of the two matrices of vocabulary size counts.
  if (!model.tie_embeddings)
    weights -= static_cast<double>(model.vocab_size) * static_cast<double>(model.n_embd);
  return 6 * weights + 12.0 * static_cast<double>(model.n_layer * model.attention_width()) *
                           static_cast<double>(block_size);
}

double recomputed_part(const ModelConfig& model, int64_t block_size, Recompute recompute) {
  const auto width = static_cast<double>(model.n_embd);
  const double qkv =
      width * static_cast<double>((model.n_head + 2 * model.kv_heads()) * model.head_dim());
  const auto mixed = static_cast<double>(model.attention_width());
  const auto hidden = static_cast<double>(model.ffn());
  const double up = (model.family == Family::llama ? 2 : 1) * width * hidden;
  // Scores and mixture, of half the pairs.
  const double attention = mixed * static_cast<double>(block_size);
  const double layer = qkv + attention + mixed * width + up + hidden * width;
  const double again = recompute == Recompute::none        ? 0
                       : recompute == Recompute::attention ? qkv + attention
                                                           : layer - hidden * width;
  const auto layers = static_cast<double>(model.n_layer);
  return (layers - 1) * again / (layers * layer + width * static_cast<double>(model.vocab_size));
}

StepTime measure_step(const Probe& probe) {
  at::set_num_threads(static_cast<int>(probe.threads));
  const Reduced reduced = reduce(probe);
  Rates rates;
  if (reduced.layers) {
    ModelConfig small = probe.model;
    small.n_layer = 1;
    const Rates one = measure(probe, small, reduced.rows);
    small.n_layer = 2;
    rates = extrapolate(one, measure(probe, small, reduced.rows), probe.model.n_layer);
  } else {
    rates = measure(probe, probe.model, reduced.rows);
  }
  StepTime time;
  if (rates.train == 0) return time;
  time.evaluate_ms = rates.evaluate * probe.mean_step_tokens;
  time.step_ms = rates.train * probe.mean_step_tokens + rates.update * probe.updated_share;
  time.basis = fmt::format(
      "measured: {} micro-batches of {} rows{} on this machine, {} threads, {}", probe.steps,
      reduced.rows,
      !reduced.layers               ? ""
      : probe.config.freeze.empty() ? " through one and two layers"
                                    : " through one and two layers, none of them frozen",
      probe.threads, ops::kernels_name(ops::kernels()));
  return time;
}

StepTime predict_step(const Devices& devices, const std::string& precision, double flops_per_step) {
  const double peak = devices.device.peak_flops(precision) * static_cast<double>(devices.count);
  StepTime time;
  if (peak == 0) {
    time.basis = fmt::format("{}: its peak rate is not known here, and no time is predicted",
                             devices.device.description);
    return time;
  }
  time.step_ms_at_peak = flops_per_step / peak * 1e3;
  time.step_ms = time.step_ms_at_peak / kUsualUtilisation;
  // A forward pass is a third of forward and backward.
  time.evaluate_ms = time.step_ms / 3;
  time.basis = fmt::format("{} × {}: {:.0f} TFLOP/s each in {} ({}), {:.0f} % of them reached",
                           devices.count, devices.device.description,
                           devices.device.peak_flops(precision) / 1e12, precision,
                           devices.device.source, 100 * kUsualUtilisation);
  return time;
}

}  // namespace train_sft
