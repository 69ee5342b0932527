#pragma once

#include <string>
#include <vector>

#include "train_sft/config/parameter_layout.h"
#include "train_sft/interop/model_source.h"

namespace train_sft {

// A parameter as floats, and floats as the bytes of a type. Throws CheckpointError when a finite
// value does not fit the type.
std::vector<float> parameter_values(const ModelSource& model, const ParameterInfo& parameter);
std::vector<std::byte> bytes_of(const ModelSource& model, const std::string& name,
                                const std::vector<float>& values, TensorType type);

}  // namespace train_sft
