// Everything a training run holds, and the phases that make it, in order: start (start.h),
// directory, machine, tokenizer, data, batches, model, schedule, files.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>

#include "train/append_file.h"
#include "train/example_log.h"
#include "train/gradient_reduction.h"
#include "train/optimizer_shards.h"
#include "train/start.h"
#include "train/step_in_flight.h"
#include "train_sft/base/error.h"
#include "train_sft/base/file.h"
#include "train_sft/collective/collective.h"
#include "train_sft/config/run_shape.h"
#include "train_sft/data/eval_sets.h"
#include "train_sft/data/loader.h"
#include "train_sft/model/engine.h"
#include "train_sft/train/checkpoint.h"
#include "train_sft/train/metrics.h"
#include "train_sft/train/optimizer.h"
#include "train_sft/train/schedule.h"

namespace train_sft {

struct Run {
  explicit Run(Collective& c) : collective(c) {}

  Collective& collective;
  StartPlan start;
  Settings settings;     // in force
  std::string on_event;  // of this start alone
  bool on_cpus = false;  // of this start alone: its processes are those of --procs
  std::string out_dir;
  std::unique_ptr<DirectoryLock> lock;

  std::unique_ptr<Tokenizer> tokenizer;
  std::unique_ptr<ChatTemplate> chat_template;
  DataSplit data;
  std::optional<RowTable> train_rows, validation_rows;  // refer to data
  std::vector<std::unique_ptr<EvalSet>> eval_sets;
  std::optional<RowOrder> order;

  c10::Device device{c10::kCPU};               // where the model is
  uint64_t program_bytes = 0, data_bytes = 0;  // of memory, as they were measured
  BatchShape batch;
  RunShape shape;
  Schedule schedule;
  std::unique_ptr<Parameters> parameters;
  std::unique_ptr<Optimizer> optimizer;          // refers to parameters
  std::unique_ptr<Engine> engine;                // refers to parameters
  std::unique_ptr<OptimizerShards> shards;       // refers to parameters
  std::unique_ptr<GradientReduction> reduction;  // refers to parameters
  // Null where this process is not the one that writes.
  std::unique_ptr<MetricsWriter> metrics;
  std::unique_ptr<ExampleLog> examples;
  std::unique_ptr<AppendFile> samples;  // null: none are written
  TrainState state;                     // after the last step whose result is known
  // The step after it, when it was begun already: weights and moments are then of neither.
  std::optional<StepInFlight> in_flight;
  bool fitted = false;                // the last step did into memory
  int64_t retry_step = -1;            // when a save failed: the step to try again at
  ExitCode stop_code = ExitCode::ok;  // of the signal that ends the run, whichever process got it

  const TrainConfig& config() const { return settings.config; }
  bool writes() const { return collective.is_first(); }  // files, hooks and lines for people
  bool evaluates() const;                                // has validation data, and an interval
  double epoch() const;                                  // passes over the data so far
};

// Throws Error; what was said about it is in the log by then.
std::unique_ptr<Run> set_up_run(const Settings& given, Collective& collective = single_process());

// -- the phases, each in a file of its own or beside set_up_run; those that write files are for the
// process that writes
void open_out_dir(Run& run);            // run_directory.cpp
void restore_out_dir(Run& run);         // run_directory.cpp: when it was removed under the run
void write_run_config(const Run& run);  // run_directory.cpp: config.json
void open_records(Run& run);            // run_directory.cpp: metrics and the like, cut to the state
void sync_records(Run& run);            // run_directory.cpp
void prepare_tokenizer(Run& run);       // run_tokenizer.cpp
EngineOptions fit_into_memory(Run& run);  // memory_setup.cpp: state.micro_rows, the arena
void log_settings(const Run& run);        // run_log.cpp: before anything is loaded
void log_run(const Run& run);             // run_log.cpp: before the first step

}  // namespace train_sft
