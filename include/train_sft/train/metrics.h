// metrics.jsonl, TensorBoard and the console line: one writer, each step once.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "train_sft/base/json.h"
#include "train_sft/report/signs.h"

namespace train_sft {

struct StepMetrics {
  int64_t step = 0;  // 1-based: steps done
  double epoch = 0;
  int64_t tokens = 0, examples = 0;  // in all so far
  double loss = 0, lr = 0, grad_norm = 0;
  double tokens_per_s = 0, step_ms = 0;
  double mfu = 0;           // fraction of the device's peak; 0: the peak is not known
  double data_wait_ms = 0;  // of step_ms
  uint64_t memory_bytes = 0;
  uint64_t memory_limit_bytes = 0;  // what the process could have in all
  bool skipped = false;
  int64_t spikes = 0;  // steps judged to be spikes, in the run so far
  std::optional<double> val_loss;
  std::map<std::string, double> eval_losses;  // of named sets beside the validation data
  std::vector<Sign> signs;                    // seen at this step
};
// The line of metrics.jsonl; record_from_json (report/record.h) reads it.
Json to_json(const StepMetrics& metrics);

struct Histogram;  // train/tensorboard.h

class MetricsWriter {
 public:
  // Cuts metrics.jsonl and this run's event files back to `from_step` (0: a new run), then appends.
  // An empty tensorboard_dir: no event file.
  MetricsWriter(const std::string& out_dir, const std::string& tensorboard_dir, int64_t from_step);
  ~MetricsWriter();
  void write(const StepMetrics& metrics);
  // TensorBoard; nothing where it is off.
  void text(const std::string& tag, int64_t step, const std::string& value);
  void histogram(const std::string& tag, int64_t step, const Histogram& histogram);
  bool has_tensorboard() const;
  void sync();  // before a checkpoint: what it counts is durable

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace train_sft
