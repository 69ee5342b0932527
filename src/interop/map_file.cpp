#include "interop/map_file.h"

#include "train_sft/base/error.h"

namespace train_sft {

MappedFile map_model_file(const std::string& path) {
  try {
    return MappedFile(path);
  } catch (const DataError& error) {
    throw CheckpointError("{}", error.what());
  }
}

}  // namespace train_sft
