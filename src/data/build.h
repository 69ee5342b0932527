// Parts to the two sides of the data: which records validate, what a data weight repeats, what is
// too long.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "chunks.h"
#include "parts.h"
#include "split.h"
#include "stored_dataset.h"

namespace train_sft {

struct Built {
  StoredDataset train, validation;
  Placeholders unknown_vars;
};

// Decides how plain texts are split before they are read: by tail, at a character of each.
void plan_split(std::vector<DataSource>& sources, const TrainConfig& config);

// Whether the data are one stream of text (else examples), of one side: train or validation.
bool is_stream(const std::vector<DataSource>& sources, const TrainConfig& config);

// Columns go to <directory>/<side>.<column>, or stay in the builders given (directory "").
class Assembly {
 public:
  Assembly(const std::vector<DataSource>& sources, const TrainConfig& config,
           const PartStore& parts, int token_bytes, const std::string& directory);
  Built run();
  // After run(), of columns in memory.
  Dataset open_train(int64_t vocab_size) const { return train_.open(vocab_size); }
  Dataset open_validation(int64_t vocab_size) const { return validation_.open(vocab_size); }

 private:
  struct RecordPlace {
    const DataSource* source;
    uint64_t number;  // over all files
    uint64_t content_hash;
    bool held_out;  // as the chunk says
  };
  template <typename Visit>
  void each_record(Visit visit) const;
  template <typename Visit>
  void each_record_of(const DataSource& source, uint64_t first_number, Visit visit) const;
  bool validates(const RecordPlace& record) const;
  void choose_validation();
  void count_records();
  uint64_t add_source(const DataSource& source, uint64_t first_number);
  using Wanted = std::function<bool(uint64_t content_hash, uint64_t index)>;
  uint64_t add_copy(const DataSource& source, uint64_t first_number, uint64_t copy,
                    const Wanted& wanted);

  const std::vector<DataSource>& sources_;
  const TrainConfig& config_;
  const PartStore& parts_;
  DatasetBuilder train_, validation_;
  uint64_t records_ = 0;  // of the sources that are split
  bool by_tail_ = false;
  ValidationChoice choice_;
};

}  // namespace train_sft
