#include "train_sft/interop/tensor_types.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <cstring>

#include "interop/ggml_blocks.h"
#include "train_sft/base/error.h"

namespace train_sft {
namespace {

constexpr std::array<TensorTypeInfo, 12> kTypes = {{
    {TensorType::f64, "F64", 1, 8, 28, "DoubleStorage"},
    {TensorType::f32, "F32", 1, 4, 0, "FloatStorage"},
    {TensorType::f16, "F16", 1, 2, 1, "HalfStorage"},
    {TensorType::bf16, "BF16", 1, 2, 30, "BFloat16Storage"},
    {TensorType::q4_0, "Q4_0", 32, 18, 2, ""},
    {TensorType::q4_1, "Q4_1", 32, 20, 3, ""},
    {TensorType::q5_0, "Q5_0", 32, 22, 6, ""},
    {TensorType::q5_1, "Q5_1", 32, 24, 7, ""},
    {TensorType::q8_0, "Q8_0", 32, 34, 8, ""},
    {TensorType::q4_k, "Q4_K", 256, 144, 12, ""},
    {TensorType::q5_k, "Q5_K", 256, 176, 13, ""},
    {TensorType::q6_k, "Q6_K", 256, 210, 14, ""},
}};

template <typename Condition>
std::optional<TensorType> find_type(Condition condition) {
  const auto* found = std::find_if(kTypes.begin(), kTypes.end(), condition);
  return found == kTypes.end() ? std::nullopt : std::optional(found->type);
}

// Files are not aligned for their types.
template <typename T>
T load(const std::byte* bytes) {
  T value;
  std::memcpy(&value, bytes, sizeof(T));
  return value;
}

template <typename T>
void store(std::byte* bytes, T value) {
  std::memcpy(bytes, &value, sizeof(T));
}

uint16_t bfloat16_of_float(float value) {
  const auto bits = std::bit_cast<uint32_t>(value);
  if (std::isnan(value)) return static_cast<uint16_t>(bits >> 16 | 0x40);  // stays a NaN, quiet
  return static_cast<uint16_t>((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

using Dequantize = void (*)(const std::byte* block, float* out);

Dequantize dequantizer(TensorType type) {
  switch (type) {
    case TensorType::q4_0:
      return ggml::dequantize_q4_0;
    case TensorType::q4_1:
      return ggml::dequantize_q4_1;
    case TensorType::q5_0:
      return ggml::dequantize_q5_0;
    case TensorType::q5_1:
      return ggml::dequantize_q5_1;
    case TensorType::q8_0:
      return ggml::dequantize_q8_0;
    case TensorType::q4_k:
      return ggml::dequantize_q4_k;
    case TensorType::q5_k:
      return ggml::dequantize_q5_k;
    case TensorType::q6_k:
      return ggml::dequantize_q6_k;
    default:
      return nullptr;
  }
}

float plain_value(TensorType type, const std::byte* bytes) {
  switch (type) {
    case TensorType::f64:
      return static_cast<float>(load<double>(bytes));
    case TensorType::f16:
      return float_of_half(load<uint16_t>(bytes));
    case TensorType::bf16:
      return std::bit_cast<float>(uint32_t{load<uint16_t>(bytes)} << 16);
    default:
      return load<float>(bytes);
  }
}

}  // namespace

const TensorTypeInfo& info(TensorType type) {
  return kTypes[static_cast<size_t>(type)];
}

std::optional<TensorType> tensor_type_named(std::string_view name) {
  return find_type([&](const TensorTypeInfo& t) { return name == t.name; });
}
std::optional<TensorType> tensor_type_of_gguf(uint64_t id) {
  return find_type([&](const TensorTypeInfo& t) { return static_cast<int64_t>(id) == t.gguf_id; });
}
std::optional<TensorType> tensor_type_of_torch(std::string_view storage_class) {
  if (storage_class.empty()) return std::nullopt;
  return find_type([&](const TensorTypeInfo& t) { return storage_class == t.torch_class; });
}

uint64_t bytes_of_values(TensorType type, uint64_t values) {
  const TensorTypeInfo& t = info(type);
  TRAIN_SFT_CHECK(values % static_cast<uint64_t>(t.block) == 0, "{} values of {}", values, t.name);
  return values / static_cast<uint64_t>(t.block) * static_cast<uint64_t>(t.block_bytes);
}

void to_floats(TensorType type, std::span<const std::byte> bytes, std::span<float> out) {
  const TensorTypeInfo& t = info(type);
  TRAIN_SFT_CHECK(bytes.size() == bytes_of_values(type, out.size()), "{} bytes for {} values of {}",
                  bytes.size(), out.size(), t.name);
  if (out.empty()) return;
  if (type == TensorType::f32) {
    std::memcpy(out.data(), bytes.data(), bytes.size());
  } else if (const Dequantize dequantize = dequantizer(type)) {
    const auto values = static_cast<size_t>(t.block), step = static_cast<size_t>(t.block_bytes);
    for (size_t b = 0; b * values < out.size(); ++b)
      dequantize(bytes.data() + b * step, out.data() + b * values);
  } else {
    const auto step = static_cast<size_t>(t.block_bytes);
    for (size_t i = 0; i < out.size(); ++i) out[i] = plain_value(type, bytes.data() + i * step);
  }
}

uint64_t from_floats(TensorType type, std::span<const float> values, std::span<std::byte> out) {
  TRAIN_SFT_CHECK(out.size() == bytes_of_values(type, values.size()), "{} bytes for {} values",
                  out.size(), values.size());
  uint64_t overflows = 0;
  switch (type) {
    case TensorType::f32:
      if (!out.empty()) std::memcpy(out.data(), values.data(), out.size());
      break;
    case TensorType::f16:
      for (size_t i = 0; i < values.size(); ++i) {
        const uint16_t half = half_of_float(values[i]);
        if ((half & 0x7fff) == 0x7c00 && std::isfinite(values[i])) ++overflows;
        store(out.data() + 2 * i, half);
      }
      break;
    case TensorType::bf16:
      for (size_t i = 0; i < values.size(); ++i)
        store(out.data() + 2 * i, bfloat16_of_float(values[i]));
      break;
    case TensorType::q8_0:
      for (size_t b = 0; b * 32 < values.size(); ++b)
        ggml::quantize_q8_0(values.data() + b * 32, out.data() + b * 34);
      break;
    default:
      TRAIN_SFT_CHECK(false, "{} is not written", info(type).name);
  }
  return overflows;
}

float float_of_half(uint16_t bits) {
  const uint32_t sign = uint32_t{bits & 0x8000U} << 16;
  const uint32_t exponent = bits >> 10 & 0x1f, fraction = bits & 0x3ff;
  if (exponent == 0) {  // zero and subnormals: fraction * 2^-24
    const float magnitude = static_cast<float>(fraction) * 0x1p-24f;
    return sign != 0 ? -magnitude : magnitude;
  }
  if (exponent == 0x1f) return std::bit_cast<float>(sign | 0x7f800000 | fraction << 13);
  return std::bit_cast<float>(sign | (exponent + 112) << 23 | fraction << 13);
}

uint16_t half_of_float(float value) {
  const auto bits = std::bit_cast<uint32_t>(value);
  const auto sign = static_cast<uint16_t>(bits >> 16 & 0x8000);
  const uint32_t magnitude = bits & 0x7fffffff;
  if (magnitude > 0x7f800000) return sign | 0x7e00 | (magnitude >> 13 & 0x3ff);
  if (magnitude >= 0x477ff000) return sign | 0x7c00;  // from halfway above 65504 on: infinity
  if (magnitude < 0x38800000) {                       // below 2^-14: subnormal
    // Adding 0.5 lets the float unit round at the subnormals' last place, 2^-24.
    const float rounded = std::bit_cast<float>(magnitude) + 0.5f;
    return static_cast<uint16_t>(sign | (std::bit_cast<uint32_t>(rounded) - 0x3f000000));
  }
  const uint32_t rebiased = magnitude - (112U << 23);
  return static_cast<uint16_t>(sign | (rebiased + 0xfff + (rebiased >> 13 & 1)) >> 13);
}

}  // namespace train_sft
