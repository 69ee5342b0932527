#include "train_sft/train/memory_plan.h"

#include <c10/core/ScalarType.h>

#include <algorithm>

#include "train/gradient_reduction.h"
#include "train_sft/config/fp8_settings.h"
#include "train_sft/model/engine.h"
#include "train_sft/train/optimizer.h"

namespace train_sft {
namespace {

at::ScalarType compute_type(const std::string& precision) {
  return precision == "fp32" ? at::kFloat : at::kBFloat16;
}

// What the matrix products and attention keep between calls (src/ops/simd): the packed right side,
// a block of the left side a thread, partial sums of a bf16 result whose depth exceeds a block, and
// a document's keys, values and their gradients a thread.
uint64_t workspace_bytes(const ModelConfig& model, const std::string& precision, int64_t tokens,
                         int64_t threads) {
  constexpr int64_t kPackedRight = 3072 * 768 * 4, kPackedLeft = 6 * 16 * 768 * 4;
  constexpr int64_t kBf16Depth = 1536;
  const int64_t head = model.head_dim(), keys = std::min(tokens, model.block_size);
  const int64_t attention = keys * 5 * head * 4;
  int64_t partial = 0;
  if (precision != "fp32") {
    if (model.ffn() > kBf16Depth) partial = tokens * model.n_embd * 4;
    if (model.n_embd > kBf16Depth) {
      const int64_t widest = (model.family == Family::llama ? 2 : 1) * model.ffn();
      partial = std::max(partial, tokens * widest * 4);
    }
  }
  return static_cast<uint64_t>(kPackedRight + partial + threads * (kPackedLeft + attention));
}

// What a device's kernels keep (src/ops/cuda): two workspaces, what flash attention returns and
// keeps of its backward (the gradient of q in float, and all three) and its forward's output, and
// with 8-bit products the larger operands of one.
uint64_t device_workspace_bytes(const ModelConfig& model, const std::string& precision,
                                int64_t tokens) {
  constexpr int64_t kWorkspaces = int64_t{64} << 20;
  const int64_t q = model.attention_width(), kv = model.kv_heads() * model.head_dim();
  int64_t attention = tokens * (4 * q + 2 * (q + 2 * kv) + 8 * model.n_head);
  if (precision == "fp32") attention = 0;
  int64_t eight_bits = 0;
  if (precision == "fp8") {
    const int64_t widest = (model.family == Family::llama ? 2 : 1) * model.ffn();
    eight_bits = tokens * widest + model.n_embd * widest;
  }
  return static_cast<uint64_t>(kWorkspaces + attention + eight_bits);
}

// 8-bit copies of weights, as they lie and transposed.
uint64_t fp8_weight_bytes(const ModelConfig& model, const TrainConfig& config) {
  int64_t numel = 0;
  for (const Fp8Linear& linear : fp8_linears(model, bf16_linears(config, model.n_layer)))
    numel += linear.in * linear.out;
  return static_cast<uint64_t>(2 * numel);
}

// Fewer gradients are zeroed in less time than their pages take.
constexpr uint64_t kWorthGivingBack = uint64_t{64} << 20;

}  // namespace

int64_t most_rows(int64_t most, const std::function<bool(int64_t rows)>& fits) {
  int64_t fit = 0, too_many = 1;
  while (too_many <= most && fits(too_many)) {
    fit = too_many;
    too_many *= 2;
  }
  too_many = std::min(too_many, most + 1);
  while (too_many - fit > 1) {
    const int64_t middle = fit + (too_many - fit) / 2;
    (fits(middle) ? fit : too_many) = middle;
  }
  return fit;
}

Json to_json(const MemoryPlan& plan) {
  return {{"parameters", plan.parameters},
          {"compute_copy", plan.compute_copy},
          {"gradients", plan.gradients},
          {"optimizer", plan.optimizer},
          {"activations", plan.activations},
          {"workspace", plan.workspace},
          {"data", plan.data},
          {"checkpoint_copy", plan.checkpoint_copy},
          {"program", plan.program},
          {"total", plan.total()}};
}

MemoryPlace device_memory_place(uint64_t limit) {
  constexpr uint64_t kMost = uint64_t{1} << 30, kPart = 16;
  const auto least = static_cast<uint64_t>(ops::kLossScratchBytes);
  return {true, static_cast<int64_t>(std::clamp(limit / kPart, least, kMost))};
}

MemoryPlan plan_memory(const ModelConfig& model, const TrainConfig& config,
                       const std::string& precision, int64_t threads, int64_t micro_batch_tokens,
                       const MemoryPlace& place) {
  const Training training = training_of(config);
  const ParameterLayout layout = parameter_layout(model, training);
  const auto elements = static_cast<uint64_t>(layout.total);
  const auto trained = static_cast<uint64_t>(layout.trained_total);
  MemoryPlan plan;
  plan.parameters = 4 * (precision == "fp32" ? elements : trained);
  plan.compute_copy = precision == "fp32" ? 0 : 2 * elements;
  if (precision == "fp8") plan.compute_copy += fp8_weight_bytes(model, config);
  plan.gradients = 4 * trained;
  plan.optimizer = 8 * trained;
  plan.activations = Engine::planned_arena_bytes(model, compute_type(precision), config.dropout > 0,
                                                 parse_recompute(config.recompute),
                                                 micro_batch_tokens, training, place.loss_scratch);
  plan.workspace = place.is_device ? device_workspace_bytes(model, precision, micro_batch_tokens)
                                   : workspace_bytes(model, precision, micro_batch_tokens, threads);
  if (config.optimizer == "muon") {
    const MuonMemory muon = muon_memory(layout);
    const bool halves = place.is_device && precision != "fp32";  // its products are in bfloat16
    plan.optimizer -= static_cast<uint64_t>(4 * muon.without_second_moment);
    plan.workspace += static_cast<uint64_t>((halves ? 2 : 4) * muon.scratch);
  }
  return plan;
}

uint64_t gradients_in_turn(const ModelConfig& model, const TrainConfig& config,
                           const std::string& precision, int64_t micro_batch_tokens) {
  const Training training = training_of(config);
  const auto trained = static_cast<uint64_t>(parameter_layout(model, training).trained_total);
  if (4 * trained < kWorthGivingBack) return 0;
  const uint64_t beside = Engine::planned_gradient_bytes(
      model, compute_type(precision), config.dropout > 0, parse_recompute(config.recompute),
      micro_batch_tokens, training);
  return 4 * trained - std::min(4 * trained, beside);
}

uint64_t rounded_gradient_bytes(const ModelConfig& model, const TrainConfig& config,
                                int64_t processes) {
  if (processes == 1 || reduce_type(config) == at::kFloat) return 0;
  const ParameterLayout layout = parameter_layout(model, training_of(config));
  return static_cast<uint64_t>(layout.trained_total) * c10::elementSize(reduce_type(config));
}

uint64_t checkpoint_copy_bytes(const ModelConfig& model, const TrainConfig& config,
                               const std::string& precision) {
  if (!config.save_in_background) return 0;
  const Training training = training_of(config);
  const ParameterLayout layout = parameter_layout(model, training);
  const auto trained = static_cast<uint64_t>(layout.trained_total);
  const bool bf16_too = precision != "fp32" && !training.adapts();
  const int64_t without =
      config.optimizer == "muon" ? muon_memory(layout).without_second_moment : 0;
  return trained * (12 + (bf16_too ? 2 : 0)) - static_cast<uint64_t>(4 * without);
}

int64_t largest_batch(const ModelConfig& model, const TrainConfig& config,
                      const std::string& precision, int64_t threads, uint64_t available,
                      const MemoryPlace& place) {
  constexpr int64_t kEnough = 1 << 20;
  return most_rows(kEnough, [&](int64_t rows) {
    return plan_memory(model, config, precision, threads, rows * config.block_size, place)
               .total() <= available;
  });
}

}  // namespace train_sft
