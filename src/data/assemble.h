// Rendered records to a Dataset: what is too long, what has nothing to learn, copies.
#pragma once

#include <string>
#include <vector>

#include "records.h"
#include "train_sft/data/dataset.h"

namespace train_sft {

// One record as ids, with weights unless every token is learned.
struct RenderedRecord {
  std::vector<int32_t> ids;
  std::vector<float> weights;
};

enum class Overlong { truncate, drop, split, error };
Overlong parse_overlong(const std::string& name);

class DatasetBuilder {
 public:
  DatasetBuilder(bool is_text, int64_t block_size, Overlong overlong);
  // where: "file:line", for the error of overlong = error.
  void add(const RenderedRecord& rendered, uint64_t id, uint64_t content_hash,
           const std::string& where);
  void drop(const std::string& reason, uint64_t records = 1);
  Dataset finish();
  DataReport& report() { return dataset_.report; }

 private:
  void add_piece(const RenderedRecord& rendered, size_t begin, size_t end, uint64_t id,
                 uint64_t content_hash, const char* reason_when_empty);

  Dataset dataset_;
  int64_t block_size_;
  Overlong overlong_;
  std::vector<uint64_t> lengths_;
};

}  // namespace train_sft
