// examples.jsonl (log_examples): which examples every step read, to check coverage and order.
#pragma once

#include <memory>

#include "train/append_file.h"

namespace train_sft {

struct Run;

// Cuts the file back to the run's step; writes only where log_examples is on.
class ExampleLog {
 public:
  explicit ExampleLog(const Run& run);
  void step_done(const Run& run);  // the step just done
  void sync();                     // before a checkpoint: what it counts is durable

 private:
  std::unique_ptr<AppendFile> file_;
};

}  // namespace train_sft
