// How much data a run has: read from its files as training would, or from numbers given instead.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>

#include "train_sft/config/train_config.h"
#include "train_sft/data/loader.h"

namespace train_sft {

// Sizes in rows of block_size and in real tokens; of the training part unless it says otherwise.
struct DataSize {
  uint64_t rows = 0;
  uint64_t tokens = 0;  // of an epoch
  uint64_t validation_rows = 0;
  uint64_t validation_tokens = 0;
  uint64_t all_tokens = 0;  // as tokenised: training, validation and what rows leave out
  bool is_text = true;
  int64_t vocab_size = 0;            // of the tokenizer; 0: not known
  std::optional<DataReport> report;  // when files were read
  uint64_t overlap = 0;              // validation examples that also occur in training
};

// Instead of files; at least one is given.
struct GivenSize {
  std::optional<uint64_t> tokens;     // to train on
  std::optional<uint64_t> examples;   // validation included
  std::optional<double> mean_tokens;  // of an example
};
DataSize size_from_numbers(const GivenSize& given, const TrainConfig& config);

// What reading the files gave. The rows refer to the data.
struct PlannedData {
  DataSplit split;
  std::optional<RowTable> rows;
  DataSize size;
};
// Reads, tokenises and packs as the run would. Throws what reading the data throws.
std::unique_ptr<PlannedData> read_planned_data(const TrainConfig& config);

}  // namespace train_sft
