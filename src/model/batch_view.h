// What the engine reads of a micro-batch, in the memory of the device it computes on.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "model/padding.h"
#include "train_sft/data/batch.h"

namespace train_sft {

// N tokens; T rows go on to the loss from the last layer's attention, after which rows do not meet
// again: all N, or the learned ones alone.
struct BatchView {
  bool all = true;
  int64_t max_seqlen = 0;
  std::span<const int32_t> tokens, positions;  // [N]
  std::span<const int32_t> cu_seqlens;
  std::span<const int32_t> learned;                      // which rows go on, when not all
  std::span<const int32_t> targets;                      // [T]
  std::span<const int32_t> loss_rows;                    // the learned ones of the T
  std::span<const float> weights;                        // [loss_rows], or empty when all are 1
  std::span<const uint64_t> row_keys;                    // [N] of dropout
  std::span<const uint64_t> top_keys;                    // [T]
  std::span<const int32_t> token_order, position_order;  // [N] on a device: see ops/embedding.h

  int64_t size() const { return static_cast<int64_t>(tokens.size()); }
  int64_t top_rows() const { return static_cast<int64_t>(targets.size()); }
};

// What a view is wanted for.
struct ViewOptions {
  bool every_row = false;  // logits: no loss
  bool backward = false;
  bool dropout = false;
  uint64_t seed = 0, step = 0;  // of dropout
};

// Makes views of one micro-batch after another; a view is valid until the next. On the CPU they are
// of the Batch's own vectors. For a device the micro-batch is padded (padding.h), packed into one
// block and uploaded without waiting; the block stays where it is until a larger one is needed.
class BatchInputs {
 public:
  // block_size and largest_tokens: of padding.
  BatchInputs(c10::Device device, int64_t block_size, int64_t largest_tokens);

  const BatchView& view(const Batch& batch, const ViewOptions& options);

  const PaddedShape& shape() const { return shape_; }  // of the last one, on a device
  const void* block() const { return block_.defined() ? block_.const_data_ptr() : nullptr; }

 private:
  void view_host(const Batch& batch, const ViewOptions& options);
  void make_keys(const Batch& batch, const ViewOptions& options);
  void view_device(const Batch& batch, const ViewOptions& options);
  template <typename T>
  std::span<const T> pack(std::span<const T> values);
  void upload();

  c10::Device device_;
  int64_t block_size_, largest_tokens_;
  BatchView view_;
  // When rows go on alone: their numbers among themselves, and what stands in them.
  std::vector<int32_t> top_numbers_, top_targets_;
  std::vector<uint64_t> row_keys_, top_keys_;

  Batch padded_;
  PaddedShape shape_;
  std::vector<int32_t> token_order_, position_order_, counts_;
  std::vector<std::byte> staging_;
  at::Tensor block_;  // uint8, on the device
};

}  // namespace train_sft
