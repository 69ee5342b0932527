// What a run that trains LoRA adapters reads and writes in place of a whole model: PEFT's files,
// and the base they refer to.
#pragma once

#include <string>

#include "train_sft/train/checkpoint.h"

namespace train_sft {

// The model directory that a start from `checkpoint` adapts: itself, or the base of the adapter
// that it holds. Absolute: the checkpoint's files name it.
std::string base_of(const std::string& checkpoint);
std::string checksum_of_model(const std::string& directory);
// Throws CheckpointError when the base is not what the adapter was trained on.
void check_base(const TrainState& state, const std::string& checkpoint);

// From a directory that holds an adapter. Parameters with adapters take it, and the base's weights,
// as they are; others take the merged weights. Throws CheckpointError when rank, alpha or targets
// are not the run's.
void load_adapted(const std::string& directory, Parameters& parameters);

}  // namespace train_sft
