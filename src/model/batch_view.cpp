#include "model/batch_view.h"

#include <ATen/ops/empty.h>

#include <algorithm>
#include <cstring>
#include <numeric>

#include "train_sft/base/error.h"
#include "train_sft/base/profile.h"
#include "train_sft/ops/device_table.h"
#include "train_sft/ops/dropout.h"

namespace train_sft {
namespace {

constexpr size_t kSection = 256;  // bytes; of the block's parts

// Row numbers sorted by value, equal values by themselves: a counting sort.
void stable_order(std::span<const int32_t> values, std::vector<int32_t>& counts,
                  std::vector<int32_t>& order) {
  const int32_t largest = *std::max_element(values.begin(), values.end());
  counts.assign(static_cast<size_t>(largest) + 2, 0);
  for (int32_t value : values) ++counts[static_cast<size_t>(value) + 1];
  std::partial_sum(counts.begin(), counts.end(), counts.begin());
  order.resize(values.size());
  for (size_t n = 0; n < values.size(); ++n)
    order[static_cast<size_t>(counts[static_cast<size_t>(values[n])]++)] = static_cast<int32_t>(n);
}

}  // namespace

BatchInputs::BatchInputs(c10::Device device, int64_t block_size, int64_t largest_tokens)
    : device_(device), block_size_(block_size), largest_tokens_(largest_tokens) {}

const BatchView& BatchInputs::view(const Batch& batch, const ViewOptions& options) {
  if (device_.is_cpu())
    view_host(batch, options);
  else
    view_device(batch, options);
  return view_;
}

void BatchInputs::view_host(const Batch& batch, const ViewOptions& options) {
  view_ = {};
  view_.all = options.every_row || static_cast<int64_t>(batch.learned.size()) == batch.size();
  view_.tokens = batch.tokens;
  view_.positions = batch.positions;
  view_.cu_seqlens = batch.cu_seqlens;
  view_.max_seqlen = batch.max_seqlen;
  view_.weights = batch.weights;
  if (view_.all) {
    view_.targets = batch.targets;
    view_.loss_rows = batch.learned;
  } else {
    top_numbers_.resize(batch.learned.size());
    std::iota(top_numbers_.begin(), top_numbers_.end(), 0);
    top_targets_.resize(batch.learned.size());
    for (size_t i = 0; i < batch.learned.size(); ++i)
      top_targets_[i] = batch.targets[static_cast<size_t>(batch.learned[i])];
    view_.learned = batch.learned;
    view_.targets = top_targets_;
    view_.loss_rows = top_numbers_;
  }
  if (options.dropout) make_keys(batch, options);
}

void BatchInputs::make_keys(const Batch& batch, const ViewOptions& options) {
  row_keys_.resize(batch.tokens.size());
  ops::dropout_row_keys(row_keys_, options.seed, options.step, batch.cu_seqlens, batch.example_ids,
                        batch.positions);
  view_.row_keys = row_keys_;
  view_.top_keys = row_keys_;
  if (view_.all) return;
  top_keys_.resize(batch.learned.size());
  for (size_t i = 0; i < batch.learned.size(); ++i)
    top_keys_[i] = row_keys_[static_cast<size_t>(batch.learned[i])];
  view_.top_keys = top_keys_;
}

template <typename T>
std::span<const T> BatchInputs::pack(std::span<const T> values) {
  const size_t begin = (staging_.size() + kSection - 1) / kSection * kSection;
  staging_.resize(begin + values.size_bytes());
  if (!values.empty()) std::memcpy(staging_.data() + begin, values.data(), values.size_bytes());
  // An offset, until the block is there.
  return {reinterpret_cast<const T*>(begin), values.size()};
}

void BatchInputs::upload() {
  const auto bytes = static_cast<int64_t>(staging_.size());
  if (!block_.defined() || block_.numel() < bytes) {
    block_ = at::Tensor();
    block_ = at::empty({bytes + bytes / 2}, at::TensorOptions().dtype(at::kByte).device(device_));
  }
  auto* base = static_cast<std::byte*>(block_.mutable_data_ptr());
  ops::device_table(block_)->upload(base, staging_.data(), staging_.size());
  const auto move = [base]<typename T>(std::span<const T>& part) {
    part = {reinterpret_cast<const T*>(base + reinterpret_cast<size_t>(part.data())), part.size()};
  };
  move(view_.tokens);
  move(view_.positions);
  move(view_.cu_seqlens);
  move(view_.learned);
  move(view_.targets);
  move(view_.weights);
  move(view_.row_keys);
  move(view_.top_keys);
  move(view_.token_order);
  move(view_.position_order);
}

void BatchInputs::view_device(const Batch& batch, const ViewOptions& options) {
  const profile::Scope scope("data to the device");
  shape_ = padded_shape(batch, block_size_, largest_tokens_);
  pad(batch, shape_, padded_);
  view_host(padded_, options);
  staging_.clear();
  view_.max_seqlen = shape_.max_seqlen;
  if (options.backward) {
    stable_order(padded_.tokens, counts_, token_order_);
    stable_order(padded_.positions, counts_, position_order_);
    view_.token_order = pack<int32_t>(token_order_);
    view_.position_order = pack<int32_t>(position_order_);
  }
  view_.tokens = pack(view_.tokens);
  view_.positions = pack(view_.positions);
  view_.cu_seqlens = pack(view_.cu_seqlens);
  view_.learned = pack(view_.learned);
  view_.targets = pack(view_.targets);
  view_.weights = pack(view_.weights);
  view_.loss_rows = {};  // all of the rows that go on
  view_.row_keys = pack(view_.row_keys);
  view_.top_keys = pack(view_.top_keys);
  upload();
}

}  // namespace train_sft
