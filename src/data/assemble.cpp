#include "assemble.h"

#include <algorithm>
#include <utility>

#include "train_sft/base/error.h"

namespace train_sft {
namespace {

std::map<std::string, ColumnWriter> columns_of(bool is_text, const std::string& prefix) {
  std::map<std::string, ColumnWriter> columns;
  std::vector<std::string> names = {"tokens", "offsets", "hashes"};
  if (!is_text) names.insert(names.end(), {"ids", "run_ends", "run_weights"});
  for (const std::string& name : names) {
    columns.try_emplace(name, prefix.empty() ? "" : prefix + name);
  }
  return columns;
}

// At 0, 5, 25, 50, 75, 95 and 100 %.
std::vector<uint64_t> percentiles(const std::map<uint64_t, uint64_t>& lengths) {
  uint64_t count = 0;
  for (const auto& [length, examples] : lengths) count += examples;
  std::vector<uint64_t> values;
  if (count == 0) return values;
  for (const uint64_t percent : {0, 5, 25, 50, 75, 95, 100}) {
    const uint64_t place = (count - 1) * percent / 100;
    uint64_t before = 0;
    auto at = lengths.begin();
    while (before + at->second <= place) before += (at++)->second;
    values.push_back(at->first);
  }
  return values;
}

}  // namespace

Overlong parse_overlong(const std::string& name) {
  if (name == "truncate") return Overlong::truncate;
  if (name == "drop") return Overlong::drop;
  if (name == "split") return Overlong::split;
  if (name == "error") return Overlong::error;
  throw UsageError("overlong '{}' is unknown; choose truncate, drop, split or error", name);
}

DatasetBuilder::DatasetBuilder(const BuilderSettings& settings, const std::string& prefix)
    : settings_(settings),
      columns_(columns_of(settings.is_text, prefix)),
      tokens_(columns_.at("tokens")),
      offsets_(columns_.at("offsets")),
      hashes_(columns_.at("hashes")) {
  stored_.is_text = settings.is_text;
  stored_.token_bytes = settings.token_bytes;
  offsets_.add(uint64_t{0});
}

void DatasetBuilder::drop(const std::string& reason, uint64_t records) {
  if (records > 0) stored_.report.dropped[reason] += records;
}

template <typename T>
void DatasetBuilder::add_ids(std::span<const T> ids) {
  size_ += ids.size();
  if (sizeof(T) == static_cast<size_t>(settings_.token_bytes)) {
    tokens_.add_all(ids);
    return;
  }
  for (const T id : ids) {
    if (settings_.token_bytes == 2) {
      tokens_.add(static_cast<uint16_t>(id));
    } else {
      tokens_.add(static_cast<uint32_t>(id));
    }
  }
}

void DatasetBuilder::add_weight(float weight) {
  if (weight != run_weight_) end_run();
  run_weight_ = weight;
  ++run_end_;
}

void DatasetBuilder::end_run() {
  if (run_weight_ < 0) return;
  columns_.at("run_ends").add(run_end_);
  columns_.at("run_weights").add(run_weight_);
}

void DatasetBuilder::add_piece(const RenderedRecord& rendered, size_t begin, size_t end,
                               uint64_t id, uint64_t content_hash, const char* reason_when_empty) {
  const auto weight = [&](size_t i) {
    return rendered.weights.empty() ? 1.0F : rendered.weights[i];
  };
  uint64_t learned = 0;
  for (size_t i = begin + 1; i < end; ++i) learned += weight(i) > 0.0F ? 1 : 0;
  if (learned == 0) {
    drop(reason_when_empty);
    return;
  }
  add_ids(std::span(rendered.ids).subspan(begin, end - begin));
  add_weight(0.0F);
  for (size_t i = begin + 1; i < end; ++i) add_weight(weight(i));
  offsets_.add(size_);
  columns_.at("ids").add(id);
  hashes_.add(content_hash);
  stored_.report.learned_tokens += learned;
}

void DatasetBuilder::add(const RenderedRecord& rendered, uint64_t id, uint64_t content_hash,
                         const std::string& where) {
  const size_t length = rendered.ids.size();
  const auto block = static_cast<size_t>(settings_.block_size);
  ++lengths_[length];
  if (length <= block) {
    add_piece(rendered, 0, length, id, content_hash, "nothing to learn");
    return;
  }
  DataReport& report = stored_.report;
  switch (settings_.overlong) {
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
          where, length, settings_.block_size);
  }
}

void DatasetBuilder::add_to_document(std::span<const uint16_t> ids) {
  add_ids(ids);
}

void DatasetBuilder::add_to_document(std::span<const int32_t> ids) {
  add_ids(ids);
}

void DatasetBuilder::end_document(uint64_t content_hash) {
  const uint64_t length = size_ - document_begin_;
  ++lengths_[length];
  stored_.report.learned_tokens += length > 0 ? length - 1 : 0;
  offsets_.add(size_);
  hashes_.add(content_hash);
  document_begin_ = size_;
}

StoredDataset DatasetBuilder::finish() {
  if (!settings_.is_text) end_run();
  stored_.report.tokens = size_;
  stored_.report.length_percentiles = percentiles(lengths_);
  for (auto& [name, writer] : columns_) stored_.columns[name] = writer.finish();
  return stored_;
}

Dataset DatasetBuilder::open(int64_t vocab_size) const {
  std::map<std::string, ColumnBytes> bytes;
  for (const auto& [name, writer] : columns_) bytes[name] = writer.memory();
  return open_in_memory(stored_, bytes, vocab_size);
}

}  // namespace train_sft
