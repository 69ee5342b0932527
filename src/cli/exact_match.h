// Whether a model answers held-out instructions exactly: its greedy reply against the reference.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "cli/loaded_model.h"
#include "train_sft/data/dataset.h"

namespace train_sft::cli {

struct ExactMatch {
  struct Count {
    uint64_t asked = 0;
    uint64_t right = 0;
    double accuracy() const {
      return asked == 0 ? 0 : static_cast<double>(right) / static_cast<double>(asked);
    }
  };
  struct Answer {
    std::string prompt, expected, got;
  };
  Count all;
  std::map<std::string, Count> by_group;
  uint64_t skipped = 0;       // examples without a whole reply to compare with
  std::vector<Answer> shown;  // the first few
};

struct ExactMatchOptions {
  uint64_t most = 0;            // examples asked
  int64_t max_new_tokens = 64;  // an answer that runs on past its reference by this is cut
  uint64_t show = 0;
};

// Asks for the last learned reply of each example, white space at its ends aside. groups[record]
// names the group of a record; empty: no groups.
ExactMatch exact_match(const LoadedModel& model, const Dataset& dataset,
                       const std::vector<std::string>& groups, const ExactMatchOptions& options);

// The text of a field of every record of JSON files, in order ("" where there is none).
std::vector<std::string> field_of_records(const std::vector<std::string>& paths,
                                          const std::string& field);

}  // namespace train_sft::cli
