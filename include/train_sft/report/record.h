// A line of metrics.jsonl as `report`, `watch` and the signs read it. The keys are those that
// MetricsWriter (train/metrics.h) writes; what is missing or null is NaN or 0.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "train_sft/base/json.h"

namespace train_sft {

struct Record {
  int64_t step = 0;  // steps done
  double epoch = 0;
  int64_t tokens = 0;                      // in all so far
  double loss = 0, lr = 0, grad_norm = 0;  // of this step; not finite when the line says null
  double tokens_per_s = 0, step_ms = 0, data_wait_ms = 0;  // means since the record before
  uint64_t memory_bytes = 0;                               // resident
  uint64_t memory_limit_bytes = 0;  // what the process could have in all; 0: not known
  bool skipped = false;             // no update
  int64_t spikes = 0;               // steps judged to be spikes, in the whole run so far
  std::optional<double> val_loss;
  std::map<std::string, double> eval_losses;  // of named sets beside the validation data
};

Record record_from_json(const Json& line);
// The whole records of a metrics.jsonl in order; stops at the first line that is torn (a run may be
// writing it) or is not a record. No file: none.
std::vector<Record> read_records(const std::string& path);

}  // namespace train_sft
