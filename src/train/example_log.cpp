#include "train/example_log.h"

#include "train/run_setup.h"
#include "train/step_lines.h"
#include "train_sft/base/json.h"

namespace train_sft {

ExampleLog::ExampleLog(const Run& run) {
  const std::string path = join_path(run.out_dir, "examples.jsonl");
  cut_step_lines(path, run.state.step);
  if (run.config().log_examples) file_ = std::make_unique<AppendFile>(path);
}

void ExampleLog::step_done(const Run& run) {
  if (!file_) return;
  const auto data_step = static_cast<uint64_t>(run.state.data_step - 1);
  Json ids = Json::array();
  for (uint64_t i = 0; i < run.order->rows_in_step(data_step); ++i)
    for (const uint64_t id : run.train_rows->examples(run.order->row(data_step, i)))
      ids.push_back(id);
  const Json line = {
      {"step", run.state.step}, {"epoch", run.order->epoch_of(data_step)}, {"examples", ids}};
  file_->write(line.dump() + "\n");
}

void ExampleLog::sync() {
  if (file_) file_->sync();
}

}  // namespace train_sft
