// Which linear layers have 8-bit operands with precision fp8, and how their scales are found.
#pragma once

#include <cstdint>
#include <vector>

#include "train_sft/config/options.h"

namespace train_sft {

// The linear layers of a block: q, k and v as one, attention's output, up (with gate), down.
enum class BlockLinear { qkv, proj, up, down };

// What stays in bfloat16: whole blocks, and kinds in every block.
struct Bf16Linears {
  bool first = true, last = true;
  std::vector<int64_t> blocks;  // by number, from 0
  std::vector<BlockLinear> kinds;

  bool has(int64_t block, int64_t n_layer, BlockLinear kind) const;
};

// A linear layer with 8-bit operands.
struct Fp8Linear {
  int64_t block = 0;
  BlockLinear kind = BlockLinear::qkv;
  int64_t in = 0, out = 0;
};
// Those of a model, block by block: all but what stays in bfloat16 and what the hardware cannot
// (its operands have rows of 16).
std::vector<Fp8Linear> fp8_linears(const ModelConfig& model, const Bf16Linears& bf16);

// The options that precision fp8 alone has.
inline constexpr const char* kFp8Options[] = {"fp8_gradients", "fp8_scaling",         "fp8_history",
                                              "fp8_margin",    "fp8_weight_gradient", "fp8_bf16"};

// fp8_bf16 as it is given; the first and the last block when it is not. Throws UsageError naming
// the word, also for a block the model does not have; n_layer 0: not known yet.
Bf16Linears bf16_linears(const TrainConfig& config, int64_t n_layer);
// Steps whose largest magnitudes set a scale; 1 with fp8_scaling current.
int64_t fp8_history(const TrainConfig& config);

// Throws UsageError where fp8_… options contradict each other or the precision.
void validate_fp8(const Settings& settings);

}  // namespace train_sft
