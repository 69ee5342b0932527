#include "train/tensor_bytes.h"

#include <ATen/ops/empty.h>
#include <fmt/ranges.h>

#include <cstring>

#include "train_sft/base/error.h"

namespace train_sft {
namespace {

at::ScalarType scalar_type(const SafetensorsEntry& entry, const std::string& file) {
  if (entry.dtype == "F32") return at::kFloat;
  if (entry.dtype == "F64") return at::kDouble;
  if (entry.dtype == "F16") return at::kHalf;
  if (entry.dtype == "BF16") return at::kBFloat16;
  throw CheckpointError("{}: tensor '{}' has dtype {}; F32, F64, F16 and BF16 can be read", file,
                        entry.name, entry.dtype);
}

}  // namespace

std::string safetensors_dtype(at::ScalarType type) {
  if (type == at::kFloat) return "F32";
  if (type == at::kDouble) return "F64";
  if (type == at::kBFloat16) return "BF16";
  throw InternalError("no safetensors dtype for {}", at::toString(type));
}

SafetensorsEntry safetensors_entry(const std::string& name, const at::Tensor& tensor) {
  TRAIN_SFT_CHECK(tensor.is_contiguous() && tensor.is_cpu(), "tensor '{}'", name);
  const auto* bytes = static_cast<const std::byte*>(tensor.const_data_ptr());
  return {name, safetensors_dtype(tensor.scalar_type()), tensor.sizes().vec(),
          std::span(bytes, static_cast<size_t>(tensor.nbytes()))};
}

at::Tensor on_cpu(const at::Tensor& tensor) {
  if (!tensor.defined() || tensor.is_cpu()) return tensor;
  return at::empty(tensor.sizes(), at::TensorOptions().dtype(tensor.scalar_type())).copy_(tensor);
}

void copy_entry(const SafetensorsEntry& entry, at::Tensor target, const std::string& file) {
  if (entry.shape != target.sizes().vec())
    throw CheckpointError("{}: tensor '{}' has shape [{}], the model needs [{}]", file, entry.name,
                          fmt::join(entry.shape, ", "), fmt::join(target.sizes().vec(), ", "));
  const at::ScalarType type = scalar_type(entry, file);
  // Through a copy: the map's bytes need not be aligned for their type.
  const at::Tensor source =
      type == target.scalar_type() ? target : at::empty(target.sizes(), at::TensorOptions(type));
  TRAIN_SFT_CHECK(source.is_contiguous(), "tensor '{}'", entry.name);
  std::memcpy(source.mutable_data_ptr(), entry.bytes.data(), entry.bytes.size());
  if (!source.is_same(target)) target.copy_(source);
}

}  // namespace train_sft
