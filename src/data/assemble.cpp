#include "assemble.h"

#include <algorithm>
#include <utility>

#include "train_sft/base/error.h"

namespace train_sft {

Overlong parse_overlong(const std::string& name) {
  if (name == "truncate") return Overlong::truncate;
  if (name == "drop") return Overlong::drop;
  if (name == "split") return Overlong::split;
  if (name == "error") return Overlong::error;
  throw UsageError("overlong '{}' is unknown; choose truncate, drop, split or error", name);
}

DatasetBuilder::DatasetBuilder(bool is_text, int64_t block_size, Overlong overlong)
    : block_size_(block_size), overlong_(overlong) {
  dataset_.is_text = is_text;
  dataset_.offsets.push_back(0);
}

void DatasetBuilder::drop(const std::string& reason, uint64_t records) {
  if (records > 0) dataset_.report.dropped[reason] += records;
}

void DatasetBuilder::add_piece(const RenderedRecord& rendered, size_t begin, size_t end,
                               uint64_t id, uint64_t content_hash, const char* reason_when_empty) {
  const auto weight = [&](size_t i) {
    return rendered.weights.empty() ? 1.0F : rendered.weights[i];
  };
  uint64_t learned = 0;
  for (size_t i = begin + 1; i < end; ++i) learned += weight(i) > 0.0F ? 1 : 0;
  // A stream's one-token documents (empty ones) are kept: they are part of the stream.
  if (learned == 0 && !dataset_.is_text) {
    drop(reason_when_empty);
    return;
  }
  const auto at = [](size_t i) { return static_cast<std::ptrdiff_t>(i); };
  dataset_.tokens.insert(dataset_.tokens.end(), rendered.ids.begin() + at(begin),
                         rendered.ids.begin() + at(end));
  if (!dataset_.is_text) {
    dataset_.weights.push_back(0.0F);
    for (size_t i = begin + 1; i < end; ++i) dataset_.weights.push_back(weight(i));
  }
  dataset_.offsets.push_back(dataset_.tokens.size());
  dataset_.ids.push_back(id);
  dataset_.content_hashes.push_back(content_hash);
  dataset_.report.learned_tokens += learned;
}

void DatasetBuilder::add(const RenderedRecord& rendered, uint64_t id, uint64_t content_hash,
                         const std::string& where) {
  const size_t length = rendered.ids.size();
  const auto block = static_cast<size_t>(block_size_);
  lengths_.push_back(length);
  if (dataset_.is_text || length <= block) {
    add_piece(rendered, 0, length, id, content_hash, "nothing to learn");
    return;
  }
  DataReport& report = dataset_.report;
  switch (overlong_) {
    case Overlong::truncate:
      ++report.truncated;
      report.truncated_tokens += length - block;
      add_piece(rendered, 0, block, id, content_hash, "nothing to learn once truncated");
      break;
    case Overlong::drop:
      drop("longer than block_size");
      break;
    case Overlong::split: {
      // Neighbours share a token: what the first piece cannot predict, the next one does.
      uint64_t piece = 0;
      for (size_t begin = 0; begin + 1 < length; begin += block - 1, ++piece) {
        const size_t end = std::min(begin + block, length);
        add_piece(rendered, begin, end, id + piece * kPieceStride, content_hash,
                  "split piece with nothing to learn");
        ++report.split_pieces;
      }
      break;
    }
    case Overlong::error:
      throw DataError(
          "{}: this example is {} tokens long, block_size is {}. Raise block_size, or set "
          "overlong to truncate, drop or split.",
          where, length, block_size_);
  }
}

Dataset DatasetBuilder::finish() {
  DataReport& report = dataset_.report;
  report.tokens = dataset_.tokens.size();
  std::sort(lengths_.begin(), lengths_.end());
  if (!lengths_.empty()) {
    for (const size_t percent : {0, 5, 25, 50, 75, 95, 100}) {
      report.length_percentiles.push_back(lengths_[(lengths_.size() - 1) * percent / 100]);
    }
  }
  dataset_.tokens.shrink_to_fit();
  return std::move(dataset_);
}

}  // namespace train_sft
