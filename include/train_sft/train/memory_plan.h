// What a run needs of memory, by part.
#pragma once

#include <cstdint>
#include <functional>
#include <string>

#include "train_sft/base/json.h"
#include "train_sft/config/train_config.h"
#include "train_sft/ops/cross_entropy.h"

namespace train_sft {

// Bytes.
struct MemoryPlan {
  uint64_t parameters = 0;    // fp32 masters
  uint64_t compute_copy = 0;  // bf16 weights beside them, and 8-bit ones
  uint64_t gradients = 0;
  uint64_t optimizer = 0;
  uint64_t activations = 0;      // the arena, the logits' chunk included
  uint64_t workspace = 0;        // of the matrix products, all threads
  uint64_t data = 0;             // tokens, weights and offsets kept in memory
  uint64_t checkpoint_copy = 0;  // what checkpoints are written from while training goes on
  uint64_t program = 0;          // the program and LibTorch themselves

  uint64_t total() const {
    return parameters + compute_copy + gradients + optimizer + activations + workspace + data +
           checkpoint_copy + program;
  }
};
Json to_json(const MemoryPlan& plan);  // by part, plus "total"

// Where a run computes, as far as its memory goes.
struct MemoryPlace {
  bool is_device = false;                         // what kernels keep is a device's
  int64_t loss_scratch = ops::kLossScratchBytes;  // EngineOptions::loss_scratch
};
// On a device, of which a run may use so many bytes: each chunk of the loss reads and writes the
// output layer's gradient, so chunks are larger there.
MemoryPlace device_memory_place(uint64_t limit);

// Everything but data and program, for a micro-batch of so many tokens, all of them learned. Of the
// settings: what is trained, dropout, recompute.
MemoryPlan plan_memory(const ModelConfig& model, const TrainConfig& config,
                       const std::string& precision, int64_t threads, int64_t micro_batch_tokens,
                       const MemoryPlace& place = {});
// Of the gradients, what takes the place of activations in the backward when a step is one
// micro-batch of so many tokens (EngineOptions::gives_way): they never stand beside each other.
uint64_t gradients_in_turn(const ModelConfig& model, const TrainConfig& config,
                           const std::string& precision, int64_t micro_batch_tokens);
// What several processes send instead of the gradients, where that is not the gradients themselves
// (reduce_dtype bf16).
uint64_t rounded_gradient_bytes(const ModelConfig& model, const TrainConfig& config,
                                int64_t processes);
// What a copy of weights and moments takes, from which checkpoints are written in the background.
uint64_t checkpoint_copy_bytes(const ModelConfig& model, const TrainConfig& config,
                               const std::string& precision);
// The most of up to `most` for which `fits` holds, which must not hold again beyond; 0: of none.
int64_t most_rows(int64_t most, const std::function<bool(int64_t rows)>& fits);
// The most rows of block_size a micro-batch may have within so many bytes; 0: not even one.
int64_t largest_batch(const ModelConfig& model, const TrainConfig& config,
                      const std::string& precision, int64_t threads, uint64_t available,
                      const MemoryPlace& place = {});

}  // namespace train_sft
