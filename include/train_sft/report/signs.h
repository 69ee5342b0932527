// Signs: what a person watching the curves of a run would notice, each a named rule with its
// evidence and advice. A pure function of the records of metrics.jsonl, so that the trainer,
// `watch` and `report` say the same of the same run, and a resumed run says it as the uncut one.
#pragma once

#include <memory>
#include <span>
#include <string>
#include <vector>

#include "train_sft/report/record.h"

namespace train_sft {

struct Sign {
  enum class Level { note, warning };
  std::string rule;  // over_fitting, …: one of sign_rules()
  Level level = Level::warning;
  int64_t step = 0;       // the record at which it was seen
  int64_t from_step = 0;  // where on the curves it begins; for over-fitting the best evaluation
  std::string evidence;   // what was seen, with figures
  std::string advice;     // what to do about it
};
Json to_json(const Sign& sign);

// Names of every rule, in the order in which they are tried.
std::vector<std::string> sign_rules();

// Takes records in order of their steps. A rule speaks when what it looks for begins, and again
// only when that had gone for a while.
class SignWatch {
 public:
  SignWatch();
  ~SignWatch();
  SignWatch(SignWatch&&) noexcept;
  SignWatch& operator=(SignWatch&&) noexcept;
  // The signs seen at this record.
  std::vector<Sign> add(const Record& record);

 private:
  struct State;
  std::unique_ptr<State> state_;
};

// All signs of a run's records.
std::vector<Sign> signs_of(std::span<const Record> records);

}  // namespace train_sft
