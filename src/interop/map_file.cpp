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

Json read_model_json(const std::string& path) {
  try {
    Json json = read_json_file(path);
    if (json.is_object()) return json;
  } catch (const DataError& error) {
    throw CheckpointError("{}", error.what());
  }
  throw CheckpointError("{}: expected a JSON object", path);
}

}  // namespace train_sft
