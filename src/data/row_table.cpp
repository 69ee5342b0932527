#include <algorithm>

#include "packed_rows.h"
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
  RowColumns rows = packed_rows(dataset, packing, block_size);
  row_offsets_ = std::move(rows.offsets);
  row_examples_ = std::move(rows.examples);
  rows_ = row_offsets_.size() - 1;
}

double RowTable::fill() const {
  if (rows_ == 0) return 0.0;
  if (dataset_.is_text) return 1.0;
  return static_cast<double>(dataset_.tokens.size()) /
         (static_cast<double>(rows_) * static_cast<double>(block_size_));
}

uint64_t RowTable::tokens(uint64_t row) const {
  TRAIN_SFT_CHECK(row < rows_, "row {} of {}", row, rows_);
  if (dataset_.is_text) return static_cast<uint64_t>(block_size_);
  const auto length = [&](uint64_t e) { return dataset_.offsets[e + 1] - dataset_.offsets[e]; };
  if (packing_ == Packing::none) return length(row);
  uint64_t sum = 0;
  for (uint64_t i = row_offsets_[row]; i < row_offsets_[row + 1]; ++i)
    sum += length(row_examples_[i]);
  return sum;
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
  if (first >= end || end > dataset_.tokens.size()) {
    throw DataError(
        "the data: a document of tokens {} to {} among {}: the token cache is damaged; "
        "delete it",
        first, end, dataset_.tokens.size());
  }
  if (batch.cu_seqlens.empty()) batch.cu_seqlens.push_back(0);
  const size_t begin = batch.tokens.size();
  const size_t length = end - first;
  const size_t targets = std::min(end, target_end - 1) - first;  // tokens that have one
  batch.tokens.resize(begin + length);
  dataset_.tokens.copy(first, length, batch.tokens.data() + begin);
  batch.targets.insert(batch.targets.end(), batch.tokens.begin() + static_cast<long>(begin) + 1,
                       batch.tokens.end());
  batch.targets.push_back(targets == length ? dataset_.tokens.slice(end, end + 1)[0] : kNoTarget);
  for (size_t i = 0; i < length; ++i) batch.positions.push_back(static_cast<int32_t>(i));
  const auto learn = [&](uint64_t from, uint64_t to, float weight) {
    if (!(weight > 0.0F)) return;
    if (weight != 1.0F && batch.weights.empty()) batch.weights.assign(batch.learned.size(), 1.0F);
    for (uint64_t target = from; target < to; ++target) {
      batch.learned.push_back(static_cast<int32_t>(begin + (target - first) - 1));
    }
    if (weight != 1.0F || !batch.weights.empty()) {
      batch.weights.insert(batch.weights.end(), to - from, weight);
    }
  };
  // Of the targets first + 1 … first + targets.
  if (dataset_.weights.empty()) {
    learn(first + 1, first + targets + 1, 1.0F);
  } else {
    dataset_.weights.for_runs(first + 1, first + targets + 1, learn);
  }
  batch.cu_seqlens.push_back(static_cast<int32_t>(batch.tokens.size()));
  batch.example_ids.push_back(id);
  batch.max_seqlen = std::max(batch.max_seqlen, static_cast<int32_t>(length));
}

void RowTable::append_window(uint64_t row, Batch& batch) const {
  const auto block = static_cast<uint64_t>(block_size_);
  const uint64_t begin = row * block;
  const uint64_t end = begin + block;
  uint64_t number = 0;  // of documents before in this row: their dropout keys differ
  uint64_t first = begin;
  const auto append_until = [&](uint64_t document_end) {
    append_document(first, std::min(document_end, end), document_end, row + number * kCopyStride,
                    batch);
    first = document_end;
    ++number;
  };
  if (dataset_.document_mark >= 0) {
    const std::vector<int32_t> tokens = dataset_.tokens.slice(begin, end + 1);
    for (uint64_t i = 1; i <= block; ++i) {
      const int32_t limit = dataset_.mark_begins_document ? tokens[i] : tokens[i - 1];
      if (limit == dataset_.document_mark) append_until(begin + i);
    }
    if (first < end) append_until(end + 1);
    return;
  }
  const auto& offsets = dataset_.offsets;
  auto document = std::upper_bound(offsets.begin(), offsets.end(), begin);  // its end
  for (; first < end && document != offsets.end(); ++document) {
    if (*document > first) append_until(*document);
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
