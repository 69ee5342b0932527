// Number formats of tensors in model files, and their values as floats.
//
// Block formats follow ggml (ggml-org/ggml, ggml-common.h and ggml-quants.c): a row of a tensor is
// cut into blocks of 32 or 256 neighbours that share one or more scales. Everything is
// little-endian.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>

namespace train_sft {

enum class TensorType { f64, f32, f16, bf16, q4_0, q4_1, q5_0, q5_1, q8_0, q4_k, q5_k, q6_k };

struct TensorTypeInfo {
  TensorType type;
  const char* name;         // "F32", "Q4_1", ...: GGUF's and safetensors' name alike
  int64_t block;            // values a block; 1: plain numbers
  int64_t block_bytes;      // bytes a block
  int64_t gguf_id;          // ggml_type; -1: not in GGUF files read here
  const char* torch_class;  // of .pt files: "FloatStorage"; "": none
};

const TensorTypeInfo& info(TensorType type);
// By the name in safetensors or GGUF ("F32"), GGUF's number, or torch's storage class.
std::optional<TensorType> tensor_type_named(std::string_view name);
std::optional<TensorType> tensor_type_of_gguf(uint64_t id);
std::optional<TensorType> tensor_type_of_torch(std::string_view storage_class);

// Bytes of so many values, which must be whole blocks.
uint64_t bytes_of_values(TensorType type, uint64_t values);

// Values as floats: exact but for f64, and for the block formats rounded as ggml's reference does.
// bytes.size() is bytes_of_values(type, out.size()).
void to_floats(TensorType type, std::span<const std::byte> bytes, std::span<float> out);
// The reverse for f32, f16, bf16 (round to nearest even) and q8_0 (as ggml's reference). Returns
// how many finite values became infinite (f16).
uint64_t from_floats(TensorType type, std::span<const float> values, std::span<std::byte> out);

float float_of_half(uint16_t bits);
uint16_t half_of_float(float value);  // IEEE 754 binary16, round to nearest even

}  // namespace train_sft
