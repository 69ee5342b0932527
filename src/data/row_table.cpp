#include <algorithm>

#include "packing.h"
#include "train_sft/base/error.h"
#include "train_sft/data/loader.h"

namespace train_sft {

Packing resolve_packing(const TrainConfig& config, bool is_text) {
  if (config.packing == "auto") return is_text ? Packing::sequential : Packing::none;
  if (config.packing == "none") return Packing::none;
  if (config.packing == "best_fit") return Packing::best_fit;
  if (config.packing == "sequential") return Packing::sequential;
  throw UsageError("packing '{}' is unknown; choose auto, none, best_fit or sequential",
                   config.packing);
}

RowTable::RowTable(const Dataset& dataset, Packing packing, int64_t block_size)
    : dataset_(dataset), packing_(packing), block_size_(block_size) {
  const auto block = static_cast<uint64_t>(block_size);
  if (dataset.is_text) {
    // The last token of a window's targets is the first of the next one; the stream's last token
    // is only ever a target.
    const uint64_t tokens = dataset.tokens.size();
    rows_ = tokens == 0 ? 0 : (tokens - 1) / block;
    tail_ = tokens == 0 ? 0 : tokens - 1 - rows_ * block;
    return;
  }
  if (packing == Packing::none) {
    rows_ = dataset.size();
    return;
  }
  std::vector<uint32_t> lengths;
  lengths.reserve(dataset.size());
  for (uint64_t e = 0; e < dataset.size(); ++e) {
    const uint64_t length = dataset.offsets[e + 1] - dataset.offsets[e];
    TRAIN_SFT_CHECK(length <= block, "example {} of {} tokens, block {}", e, length, block);
    lengths.push_back(static_cast<uint32_t>(length));
  }
  const auto capacity = static_cast<uint32_t>(block);
  PackedRows packed = packing == Packing::best_fit ? pack_best_fit(lengths, capacity)
                                                   : pack_in_order(lengths, capacity);
  row_offsets_ = std::move(packed.offsets);
  row_examples_ = std::move(packed.examples);
  rows_ = row_offsets_.size() - 1;
}

double RowTable::fill() const {
  if (rows_ == 0) return 0.0;
  if (dataset_.is_text) return 1.0;
  return static_cast<double>(dataset_.tokens.size()) /
         (static_cast<double>(rows_) * static_cast<double>(block_size_));
}

std::vector<uint64_t> RowTable::examples(uint64_t row) const {
  TRAIN_SFT_CHECK(row < rows_, "row {} of {}", row, rows_);
  if (dataset_.is_text) return {row};
  if (packing_ == Packing::none) return {dataset_.ids[row]};
  std::vector<uint64_t> ids;
  for (uint64_t i = row_offsets_[row]; i < row_offsets_[row + 1]; ++i) {
    ids.push_back(dataset_.ids[row_examples_[i]]);
  }
  return ids;
}

// Tokens [first, end) as a document; a token's target is its successor where that lies before
// target_end.
void RowTable::append_document(uint64_t first, uint64_t end, uint64_t target_end, uint64_t id,
                               Batch& batch) const {
  if (batch.cu_seqlens.empty()) batch.cu_seqlens.push_back(0);
  for (uint64_t i = first; i < end; ++i) {
    const auto index = static_cast<int32_t>(batch.tokens.size());
    const bool has_target = i + 1 < target_end;
    batch.tokens.push_back(dataset_.tokens[i]);
    batch.targets.push_back(has_target ? dataset_.tokens[i + 1] : kNoTarget);
    batch.positions.push_back(static_cast<int32_t>(i - first));
    if (!has_target) continue;
    const float weight = dataset_.weights.empty() ? 1.0F : dataset_.weights[i + 1];
    if (!(weight > 0.0F)) continue;
    if (weight != 1.0F && batch.weights.empty()) batch.weights.assign(batch.learned.size(), 1.0F);
    batch.learned.push_back(index);
    if (weight != 1.0F || !batch.weights.empty()) batch.weights.push_back(weight);
  }
  batch.cu_seqlens.push_back(static_cast<int32_t>(batch.tokens.size()));
  batch.example_ids.push_back(id);
  batch.max_seqlen = std::max(batch.max_seqlen, static_cast<int32_t>(end - first));
}

void RowTable::append_window(uint64_t row, Batch& batch) const {
  const auto block = static_cast<uint64_t>(block_size_);
  const uint64_t begin = row * block;
  const uint64_t end = begin + block;
  const auto& offsets = dataset_.offsets;
  auto document = std::upper_bound(offsets.begin(), offsets.end(), begin);  // its end
  uint64_t number = 0;  // of documents before in this row: their dropout keys differ
  for (uint64_t first = begin; first < end; ++document, ++number) {
    if (*document == first) continue;  // a document without a token
    append_document(first, std::min(*document, end), *document, row + number * kCopyStride, batch);
    first = *document;
  }
}

void RowTable::append(uint64_t row, Batch& batch) const {
  TRAIN_SFT_CHECK(row < rows_, "row {} of {}", row, rows_);
  ++batch.rows;
  if (dataset_.is_text) {
    append_window(row, batch);
    return;
  }
  const auto append_example = [&](uint64_t e) {
    const uint64_t end = dataset_.offsets[e + 1];
    append_document(dataset_.offsets[e], end, end, dataset_.ids[e], batch);
  };
  if (packing_ == Packing::none) {
    append_example(row);
    return;
  }
  for (uint64_t i = row_offsets_[row]; i < row_offsets_[row + 1]; ++i) {
    append_example(row_examples_[i]);
  }
}

void add_rows(DataReport& report, const RowTable& rows) {
  report.rows = rows.size();
  report.fill = rows.fill();
  report.tail_tokens = rows.tail_tokens();
}

}  // namespace train_sft
