// What a model's predictions of a data set cost.
#pragma once

#include "cli/loaded_model.h"
#include "train_sft/base/json.h"
#include "train_sft/data/loader.h"
#include "train_sft/model/engine.h"

namespace train_sft::cli {

struct ModelScore {
  LossSums sums;
  double bytes = 0;    // of the learned targets' texts, weighted as their losses are
  int64_t tokens = 0;  // read, learned or not
  double seconds = 0;

  double loss() const { return sums.weight > 0 ? sums.loss / sums.weight : 0; }
};

// Over all rows, batch_size at a time; `label` stands before the progress bar.
ModelScore score(const LoadedModel& model, const RowTable& rows, int64_t batch_size,
                 const std::string& label);

// loss (nats a token), perplexity, bits_per_byte (of text; special tokens have none),
// token_accuracy, scored_tokens, tokens_per_s (of all that were read), and the report of the data.
Json to_json(const ModelScore& score, const DataReport& report);

}  // namespace train_sft::cli
