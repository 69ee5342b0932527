// What a checkpoint is written from: views of a run that stands still, or a copy of it.
#pragma once

#include <ATen/core/Tensor.h>

#include <map>
#include <string>
#include <vector>

#include "train/checkpoint_files.h"
#include "train_sft/train/checkpoint.h"

namespace train_sft {

struct CheckpointContents {
  struct Stored {
    std::string name;  // in its file
    at::Tensor values;
    bool trained;  // what is frozen does not change: a copy can share it
  };

  ModelConfig config;
  Training training;
  bool is_bf16 = false;
  std::vector<Stored> model;      // model.safetensors, or the adapter's
  std::vector<Stored> optimizer;  // optimizer.safetensors
  TrainState state;
  const Tokenizer* tokenizer = nullptr;
  const ChatTemplate* chat_template = nullptr;
  // Of the other ranks' parts of the optimizer's state, which lie in saving_directory() already.
  std::map<std::string, checkpoint_files::FileRecord> parts_written;
};

// Where the files of a checkpoint lie until it is committed.
std::string saving_directory(const std::string& out_dir, int64_t step);
// Writes this rank's part of the optimizer's state there, durably.
checkpoint_files::FileRecord write_optimizer_part(const std::string& out_dir,
                                                  const CheckpointContents& contents, int rank);

// Views, no copies.
CheckpointContents contents_of(const CheckpointParts& parts);
// Throws DivergedError when the weights hold NaN or infinity: those are never saved.
void check_finite(const CheckpointParts& parts);
// As save_checkpoint, from any thread: runs no kernels. Throws ResourceError.
std::string write_checkpoint(const std::string& out_dir, const CheckpointContents& contents,
                             bool is_best);

}  // namespace train_sft
