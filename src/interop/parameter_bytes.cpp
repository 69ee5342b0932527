#include "interop/parameter_bytes.h"

#include "train_sft/base/error.h"

namespace train_sft {

std::vector<float> parameter_values(const ModelSource& model, const ParameterInfo& parameter) {
  std::vector<float> values(static_cast<size_t>(parameter.numel));
  read_parameter(model, parameter.name, values);
  return values;
}

std::vector<std::byte> bytes_of(const ModelSource& model, const std::string& name,
                                const std::vector<float>& values, TensorType type) {
  std::vector<std::byte> bytes(bytes_of_values(type, values.size()));
  if (const uint64_t overflows = from_floats(type, values, bytes); overflows > 0)
    throw CheckpointError("{}: {} values of '{}' are too large for {}; use --dtype bf16 or f32",
                          model.path, overflows, name, info(type).name);
  return bytes;
}

}  // namespace train_sft
