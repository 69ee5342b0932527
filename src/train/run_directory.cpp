#include "train/checkpoint_files.h"
#include "train/run_setup.h"
#include "train/step_lines.h"
#include "train_sft/base/error.h"
#include "train_sft/base/log.h"

namespace train_sft {
namespace {

bool holds_a_run(const std::string& directory) {
  if (!checkpoint_files::list_checkpoints(directory).empty()) return true;
  const std::string metrics = join_path(directory, "metrics.jsonl");
  return path_exists(metrics) && file_size(metrics) > 0;
}

void open_log_file(const Run& run) {
  const std::string& log_file = run.config().log_file;
  log::set_file(log_file.empty() ? join_path(run.out_dir, "training.log") : log_file);
}

}  // namespace

// Before the directory is locked nothing in it is touched; before it is known to be ours to write
// to, nothing but the lock.
void open_out_dir(Run& run) {
  try {
    make_directories(run.out_dir);
    run.lock = std::make_unique<DirectoryLock>(run.out_dir);
  } catch (const ResourceError& error) {
    throw ResourceError("out_dir: {} cannot be used ({}); choose another place with --out_dir",
                        run.out_dir, error.what());
  }
  if (!run.start.may_reuse_out_dir && holds_a_run(run.out_dir))
    throw UsageError(
        "out_dir: {} holds another run; go on with it by --resume auto{}, or choose "
        "another place with --out_dir",
        run.out_dir, run.out_dir == "checkpoints" ? "" : " --out_dir " + run.out_dir);
  remove_leftovers(run.out_dir);
  open_log_file(run);
}

void restore_out_dir(Run& run) {
  if (path_exists(join_path(run.out_dir, ".lock"))) return;
  log::warning("{}: was removed under the run; it is made again, what was in it is lost",
               run.out_dir);
  make_directories(run.out_dir);
  run.lock = std::make_unique<DirectoryLock>(run.out_dir);
  open_log_file(run);
  write_run_config(run);
  open_records(run);
}

void open_records(Run& run) {
  run.metrics.reset();
  run.examples.reset();
  run.samples.reset();
  // A step that a stop left unreported reports once more.
  const int64_t reported = run.state.step - (run.state.unreported.is_null() ? 0 : 1);
  const std::string samples = join_path(run.out_dir, "samples.jsonl");
  cut_step_lines(samples, reported);
  if (run.config().sample_interval > 0) run.samples = std::make_unique<AppendFile>(samples);
  run.metrics = std::make_unique<MetricsWriter>(
      run.out_dir, run.config().use_tensorboard ? run.config().tensorboard_dir : "", reported);
  run.examples = std::make_unique<ExampleLog>(run);
}

void sync_records(Run& run) {
  run.metrics->sync();
  run.examples->sync();
  if (run.samples) run.samples->sync();
}

void write_run_config(const Run& run) {
  write_file_atomically(join_path(run.out_dir, "config.json"), dump_json(to_json(run.settings)));
}

}  // namespace train_sft
