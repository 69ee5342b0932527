// Types of GGUF's metadata values (ggml/docs/gguf.md, gguf_metadata_value_type).
#pragma once

#include <cstdint>

namespace train_sft {

inline constexpr uint64_t kDefaultAlignment = 32;  // of tensors in the file

enum GgufValueType : uint32_t {
  kUint8,
  kInt8,
  kUint16,
  kInt16,
  kUint32,
  kInt32,
  kFloat32,
  kBool,
  kString,
  kArray,
  kUint64,
  kInt64,
  kFloat64
};

}  // namespace train_sft
