// Names inside a run directory and a checkpoint, and the manifest that vouches for them.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "train_sft/base/json.h"
#include "train_sft/report/run_files.h"

namespace train_sft::checkpoint_files {

inline constexpr const char* kManifest = "manifest.json";
inline constexpr const char* kModel = "model.safetensors";
inline constexpr const char* kModelConfig = "config.json";
inline constexpr const char* kGenerationConfig = "generation_config.json";
inline constexpr const char* kOptimizer = "optimizer.safetensors";
// With shared optimizer state the first rank's part; the others' are optimizer-00001.safetensors, …
std::string optimizer_part(int rank);
bool is_optimizer_file(const std::string& name);
inline constexpr const char* kTrainState = "train_state.json";

inline constexpr const char* kLatest = "latest";
inline constexpr const char* kBest = "best_model";
inline constexpr const char* kBestPt = "best_model.pt";

// Tensors of optimizer.safetensors: prefix + the parameter's name.
inline constexpr const char* kMasterPrefix = "master/";
inline constexpr const char* kExpAvgPrefix = "exp_avg/";
inline constexpr const char* kExpAvgSqPrefix = "exp_avg_sq/";

// Prefixes of what a save or a removal leaves behind when it is interrupted, and of checkpoints
// that a run resumed further back has left on another branch.
inline constexpr const char* kSavingPrefix = ".saving_";
inline constexpr const char* kRemovingPrefix = ".removing_";
inline constexpr const char* kSupersededPrefix = "superseded_";

using train_sft::step_name;
using train_sft::step_of;

struct FileRecord {
  uint64_t bytes = 0;
  std::string checksum;
};

struct Manifest {
  int64_t step = 0;
  std::map<std::string, FileRecord> files;
  bool has(const std::string& name) const { return files.contains(name); }
};
Json to_json(const Manifest& manifest);
// Throws CheckpointError when the file is missing, unreadable or not ours.
Manifest read_manifest(const std::string& directory);

struct Found {
  int64_t step = 0;
  std::string name;
};
// Checkpoints of a run directory by name, ascending; whole or not.
std::vector<Found> list_checkpoints(const std::string& out_dir);
// Points latest and best_model at the checkpoints of these steps that are there. Also makes up for
// a save that ended between its checkpoint's name and its links.
void point_links(const std::string& out_dir, int64_t latest, int64_t best);
// The name a link of the run directory points to; "" when there is none.
std::string link_target(const std::string& out_dir, const char* link);

}  // namespace train_sft::checkpoint_files
