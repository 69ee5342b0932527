// Rendered records to the columns of a dataset: what is too long, what has nothing to learn,
// copies.
#pragma once

#include <map>
#include <span>
#include <string>
#include <vector>

#include "stored_dataset.h"
#include "train_sft/data/dataset.h"

namespace train_sft {

// One record as ids, with weights unless every token is learned.
struct RenderedRecord {
  std::vector<int32_t> ids;
  std::vector<float> weights;
};

enum class Overlong { truncate, drop, split, error };
Overlong parse_overlong(const std::string& name);

struct BuilderSettings {
  bool is_text = false;  // a stream of documents, in which nothing is too long
  int64_t block_size = 0;
  Overlong overlong = Overlong::truncate;
  int token_bytes = 4;
};

class DatasetBuilder {
 public:
  // Columns become the files <prefix><column>; prefix "": they stay in memory.
  DatasetBuilder(const BuilderSettings& settings, const std::string& prefix);
  // An example. where: "file:line", for the error of overlong = error.
  void add(const RenderedRecord& rendered, uint64_t id, uint64_t content_hash,
           const std::string& where);
  // A document of a stream may come in pieces.
  void add_to_document(std::span<const uint16_t> ids);
  void add_to_document(std::span<const int32_t> ids);
  void end_document(uint64_t content_hash);
  void drop(const std::string& reason, uint64_t records = 1);
  bool is_stream() const { return settings_.is_text; }
  DataReport& report() { return stored_.report; }

  StoredDataset finish();
  // After finish(), of columns that stayed in memory.
  Dataset open(int64_t vocab_size) const;

 private:
  void add_piece(const RenderedRecord& rendered, size_t begin, size_t end, uint64_t id,
                 uint64_t content_hash, const char* reason_when_empty);
  void add_weight(float weight);  // of the next token
  void end_run();
  template <typename T>
  void add_ids(std::span<const T> ids);

  BuilderSettings settings_;
  std::map<std::string, ColumnWriter> columns_;
  ColumnWriter &tokens_, &offsets_, &hashes_;
  StoredDataset stored_;
  uint64_t size_ = 0;  // tokens so far
  uint64_t document_begin_ = 0;
  float run_weight_ = -1;  // of the run of equal weights that goes on
  uint64_t run_end_ = 0;
  std::map<uint64_t, uint64_t> lengths_;  // length → examples
};

}  // namespace train_sft
