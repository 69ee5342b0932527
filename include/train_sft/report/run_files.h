// What a run directory says about its run. Only files of the run are read, none is written, and a
// run that is being trained may be read at any moment.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "train_sft/base/json.h"
#include "train_sft/report/record.h"
#include "train_sft/report/signs.h"

namespace train_sft {

// Written at the start of a run and at its end (train/run_card.h): where it ran, its model, its
// data with a few rendered examples, its length; how it ended.
inline constexpr const char* kRunCard = "run.json";

// The name of a checkpoint's directory, step_00001000; and its step, nothing for another name.
std::string step_name(int64_t step);
std::optional<int64_t> step_of(const std::string& name);

struct CheckpointEntry {
  std::string name;
  int64_t step = 0;
  uint64_t bytes = 0;
  bool has_optimizer = false;
  bool is_latest = false, is_best = false;
};

struct RunFiles {
  std::string directory, name;  // name: the last part of the path
  Json settings;                // config.json; an empty object when it is not there
  Json card;                    // run.json; likewise
  std::vector<Record> records;
  std::vector<Sign> signs;  // of the records
  std::vector<Json> samples;
  std::vector<CheckpointEntry> checkpoints;  // by step
  bool is_running = false;                   // its process is alive, on this machine
  std::string last_warning;                  // when it is the last that its log says
};

// Throws DataError when the directory holds no run, or a file of it is damaged.
RunFiles read_run(const std::string& directory);

// A value inside nested objects, or null: files of a run may be of another version.
const Json& value_at(const Json& json, std::initializer_list<const char*> path);

}  // namespace train_sft
