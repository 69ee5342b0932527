// Named sets of data that a model is scored on beside its validation data: what it learned before
// and must not forget, and what it is to learn.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "train_sft/config/train_config.h"
#include "train_sft/data/loader.h"
#include "train_sft/text/chat_template.h"
#include "train_sft/text/tokenizer.h"

namespace train_sft {

struct EvalSet {
  EvalSet(std::string n, Dataset d, Packing packing, int64_t block_size)
      : name(std::move(n)), data(std::move(d)), rows(data, packing, block_size) {}
  EvalSet(const EvalSet&) = delete;  // rows refers to data
  EvalSet& operator=(const EvalSet&) = delete;

  std::string name;
  Dataset data;
  RowTable rows;
};

// "base=stories.txt" → base and stories.txt; without a name it is the file's. Throws UsageError for
// names twice or of other characters than letters, digits, '_', '-' and '.'.
struct NamedPath {
  std::string name, path;
};
std::vector<NamedPath> parse_eval_data(const std::vector<std::string>& given);

// Reads config.eval_data, each file whole, rendered as training renders. Conversations are one a
// row, text is a stream, whatever `packing` says: the loss of an example does not depend on it.
std::vector<std::unique_ptr<EvalSet>> load_eval_sets(const TrainConfig& config,
                                                     const Tokenizer& tokenizer,
                                                     const ChatTemplate& chat_template);

}  // namespace train_sft
