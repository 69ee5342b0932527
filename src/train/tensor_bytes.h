// Between tensors and the bytes of safetensors.
#pragma once

#include <ATen/core/Tensor.h>

#include <string>

#include "train_sft/interop/safetensors.h"

namespace train_sft {

// float, double and bfloat16 as F32, F64, BF16.
std::string safetensors_dtype(at::ScalarType type);
// A contiguous CPU tensor's bytes; lives as long as the tensor.
SafetensorsEntry safetensors_entry(const std::string& name, const at::Tensor& tensor);
// Copies an entry into a tensor of the same shape, converting F64, F32, F16 and BF16.
// Itself on the CPU, a copy of what is on a device.
at::Tensor on_cpu(const at::Tensor& tensor);

// Throws CheckpointError naming file and tensor when shape or dtype do not fit.
void copy_entry(const SafetensorsEntry& entry, at::Tensor target, const std::string& file);

}  // namespace train_sft
