#pragma once

#include <string>

#include "train_sft/base/file.h"

namespace train_sft {

// A model file that cannot be opened is a CheckpointError.
MappedFile map_model_file(const std::string& path);

}  // namespace train_sft
