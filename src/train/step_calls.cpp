#include "train/step_calls.h"

#include <c10/core/ScalarType.h>
#include <fmt/format.h>

#include "train/gradient_reduction.h"
#include "train/optimizer_shards.h"
#include "train/step.h"
#include "train_sft/config/fp8_settings.h"

namespace train_sft {
namespace {

constexpr uint64_t kMasterBytes = sizeof(float), kBf16Bytes = 2;

std::string end_of(int64_t layer) {
  if (layer == GradientReduction::kOnTop) return "head";
  return layer == GradientReduction::kBelow ? "backward" : fmt::format("layer {}", layer);
}

}  // namespace

int64_t amax_count(const ModelConfig& model, const TrainConfig& config,
                   const std::string& precision) {
  if (precision != "fp8" || fp8_history(config) == 1) return 0;
  return 2 * static_cast<int64_t>(fp8_linears(model, bf16_linears(config, model.n_layer)).size());
}

std::vector<StepCall> step_calls(const ParameterLayout& layout, bool sharded, bool masters_apart,
                                 at::ScalarType reduced_in, int64_t amax) {
  std::vector<StepCall> calls;
  for (const auto& range : GradientReduction::ranges_of(layout))
    calls.push_back({sharded ? "reduce_scatter" : "all_reduce", "gradients",
                     static_cast<uint64_t>(range.numel) * c10::elementSize(reduced_in),
                     end_of(range.layer)});
  if (amax > 0)
    calls.push_back({"all_reduce_max", GradientReduction::kAmaxName,
                     static_cast<uint64_t>(amax) * sizeof(float), "backward"});
  calls.push_back({"exchange", "sums of the step", kStepSums * sizeof(double), "backward"});
  if (!sharded) return calls;
  calls.push_back({"exchange", "gradient norm", sizeof(double), "reduction"});
  const bool masters_shared = shares_masters(layout, masters_apart);
  const uint64_t element = masters_shared ? kBf16Bytes : kMasterBytes;
  for (const WeightRun& run : weight_runs(layout, masters_apart && !masters_shared))
    calls.push_back(
        {"all_gather", "weights", static_cast<uint64_t>(run.numel) * element, "update"});
  return calls;
}

}  // namespace train_sft
