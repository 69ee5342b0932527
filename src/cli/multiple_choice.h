// How often a model finds the right ending likeliest.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "cli/loaded_model.h"
#include "train_sft/base/json.h"
#include "train_sft/data/multiple_choice.h"

namespace train_sft::cli {

struct ScoredQuestion {
  std::vector<double> losses;   // −log p of each ending, summed over its tokens
  std::vector<int64_t> tokens;  // of each ending
};

struct MultipleChoice {
  uint64_t questions = 0;
  uint64_t right = 0;            // by the whole probability
  uint64_t right_norm = 0;       // by that of a character: acc_norm of lm-evaluation-harness
  uint64_t right_per_token = 0;  // by that of a token: acc_norm of llm.c
  uint64_t cut = 0;              // questions whose beginning did not fit the context
  std::vector<ScoredQuestion> shown;

  double accuracy(uint64_t count) const;
};

// The ids of an ending are those of " " + ending, after the ids of the context; of two equal ones
// the first counts.
MultipleChoice multiple_choice(const LoadedModel& model, const std::vector<Question>& questions,
                               uint64_t show);
Json to_json(const MultipleChoice& result);

}  // namespace train_sft::cli
