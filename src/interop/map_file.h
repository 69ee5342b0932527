#pragma once

#include <string>

#include "train_sft/base/file.h"
#include "train_sft/base/json.h"

namespace train_sft {

// A model file that cannot be opened is a CheckpointError.
MappedFile map_model_file(const std::string& path);
// A JSON object beside a model; what is wrong with the file is a CheckpointError.
Json read_model_json(const std::string& path);

}  // namespace train_sft
