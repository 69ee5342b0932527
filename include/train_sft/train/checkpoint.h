// Checkpoints: a directory that is a Hugging Face model, plus what a resume needs.
//   step_00001000/ config.json generation_config.json model.safetensors tokenizer.* (the model)
//                  optimizer.safetensors train_state.json manifest.json            (the run)
// With LoRA adapter_config.json and adapter_model.safetensors (PEFT's) stand for config.json and
// model.safetensors and name the model they adapt.
// latest, best_model and best_model.pt are links. A checkpoint is whole or not there: written under
// a temporary name, each file fsynced, renamed, parent fsynced, then the links move.
#pragma once

#include <cstdint>
#include <limits>
#include <optional>
#include <string>
#include <vector>

#include "train_sft/base/json.h"
#include "train_sft/model/engine.h"
#include "train_sft/model/parameters.h"
#include "train_sft/text/chat_template.h"
#include "train_sft/text/tokenizer.h"
#include "train_sft/train/optimizer.h"

namespace train_sft {

// Above these an update is skipped as a spike's; the largest double: never.
struct StepLimits {
  double loss = std::numeric_limits<double>::max();
  double grad_norm = std::numeric_limits<double>::max();
};

// Everything beside weights and moments that the rest of a run depends on; train_state.json.
struct TrainState {
  int64_t step = 0;       // optimizer steps done
  int64_t data_step = 0;  // steps of data consumed in this order (a fresh order starts at 0)
  int64_t adam_t = 0;
  int64_t tokens = 0;  // seen by training
  int64_t examples = 0;
  int64_t bad_steps = 0;                                 // non-finite steps in a row
  int64_t skipped = 0;                                   // non-finite steps in all
  std::vector<double> recent_losses, recent_grad_norms;  // the window spikes are judged by
  int64_t spikes = 0;                                    // in all, skipped or not
  int64_t spikes_skipped = 0;                            // in a row
  std::vector<StepLimits> step_limits;  // on a device with skip_spikes: of the next two steps
  int64_t rollbacks = 0;                // after divergence
  double lr_scale = 1;                  // of the schedule's learning rate, lowered by rollbacks
  double best_val_loss = 0;             // meaningful when best_step >= 0
  int64_t best_step = -1;
  int64_t evals_since_best = 0;
  Json unreported;  // of a stop during an evaluation: what the step still has to report
  Json schedule;    // as made, so that a resume continues this one
  Json settings;    // the run's settings in force
  std::string data_fingerprint, tokenizer_fingerprint;
  std::string base_model, base_checksum;  // of LoRA: what is adapted
  int64_t rows_per_step = 0;
  std::string precision;  // choices decided once and kept
  int64_t threads = 0;
  int64_t processes = 1;
  int64_t micro_rows = 0;    // rows computed at once; 0: made before this was recorded
  int64_t arena_limit = 0;   // bytes that the activations may take
  int64_t loss_scratch = 0;  // on a device: EngineOptions::loss_scratch
};
// What was decided by the memory there is: a loaded state goes on with that of the process.
void keep_memory_choices(TrainState& loaded, const TrainState& now);
Json to_json(const TrainState& state);
TrainState train_state_from_json(const Json& json, const std::string& where);

struct CheckpointParts {
  const Parameters* parameters = nullptr;
  Optimizer* optimizer = nullptr;
  const TrainState* state = nullptr;
  const Tokenizer* tokenizer = nullptr;
  const ChatTemplate* chat_template = nullptr;
  const Engine* engine = nullptr;  // for its 8-bit scales; none: they are not saved
};

// Returns the directory written: <out_dir>/step_<8 digits>. Moves latest; best_model too if
// is_best.
std::string save_checkpoint(const std::string& out_dir, const CheckpointParts& parts, bool is_best);
// Writes the manifest of a directory that holds a model and no run (an imported one): its files as
// they are, synced. verify_checkpoint() then vouches for it.
void seal_model_directory(const std::string& directory);
// Applies keep and keep_optimizer; never touches what it did not make, latest or best.
void apply_retention(const std::string& out_dir, int64_t keep, int64_t keep_optimizer);

// Clears away what interrupted saves and removals left, and nothing else.
void remove_leftovers(const std::string& out_dir);
// Renames checkpoints beyond `step` to superseded_step_…: a run that goes on from further back must
// not find the other branch's future when it is resumed again.
void supersede_checkpoints_after(const std::string& out_dir, int64_t step);

// Checks every file of the manifest by size and checksum; "" when valid, else what is wrong.
std::string verify_checkpoint(const std::string& directory);
// Throws CheckpointError when it has a manifest that does not hold; a model without one passes.
void require_valid_checkpoint(const std::string& directory);
// The newest valid checkpoint under out_dir that a run can go on from (one with the optimizer's
// state), warning about each newer one that is not. "" if none.
std::string newest_valid_checkpoint(const std::string& out_dir);
// A link, a directory, best_model.pt or a run directory to the checkpoint directory it means.
// A directory with only a model (config.json, model.safetensors) or an adapter of one counts too.
// Throws CheckpointError.
std::string resolve_checkpoint(const std::string& path);

// Of an adapter: its base's.
ModelConfig read_model_config(const std::string& directory);
TrainState read_train_state(const std::string& directory);
// Verifies the checkpoint first. Adapters among the parameters are filled from an adapter's
// directory and left alone otherwise; without adapters to fill, such a directory's are merged into
// the weights. Throws CheckpointError naming the first difference to the model.
void load_weights(const std::string& directory, Parameters& parameters);
// Weights (masters), moments and state. Throws CheckpointError naming the first difference.
TrainState load_training(const std::string& directory, Parameters& parameters,
                         Optimizer& optimizer);
// The 8-bit scales of an engine that has them. Throws CheckpointError when the checkpoint does not,
// or has those of other linear layers or of another history.
void load_fp8_state(const std::string& directory, Engine& engine);

}  // namespace train_sft
