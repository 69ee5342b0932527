#include "train_sft/interop/tensor_types.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <cstring>

#include "support/python.h"
#include "train_sft/base/file.h"
#include "train_sft/interop/gguf.h"

namespace train_sft {
namespace {

TEST(TensorTypesTest, EveryHalfSurvivesTheWayThroughFloat) {
  for (uint32_t bits = 0; bits <= 0xffff; ++bits) {
    const float value = float_of_half(static_cast<uint16_t>(bits));
    if (std::isnan(value)) {
      EXPECT_EQ(half_of_float(value) & 0x7c00, 0x7c00);
      EXPECT_NE(half_of_float(value) & 0x3ff, 0) << bits;
    } else {
      ASSERT_EQ(half_of_float(value), bits) << value;
    }
  }
}

TEST(TensorTypesTest, HalvesRoundToTheNearestTiesToEven) {
  EXPECT_EQ(half_of_float(65519.996f), 0x7bff);
  EXPECT_EQ(half_of_float(65520.0f), 0x7c00);
  EXPECT_EQ(half_of_float(0x1p-25f), 0) << "halfway to the least subnormal";
  EXPECT_EQ(half_of_float(std::nextafter(0x1p-25f, 1.0f)), 1);
  EXPECT_EQ(half_of_float(1.0f + 0x1p-11f), 0x3c00) << "a tie, to even";
  EXPECT_EQ(half_of_float(1.0f + 3 * 0x1p-11f), 0x3c02) << "a tie, to even";
  EXPECT_EQ(half_of_float(-0.0f), 0x8000);
}

TEST(TensorTypesTest, ValuesTooLargeForHalfAreCounted) {
  const std::vector<float> values = {1, 70000, -1e9f, INFINITY, 65504};
  std::vector<std::byte> bytes(10);
  EXPECT_EQ(from_floats(TensorType::f16, values, bytes), 2u);
  EXPECT_EQ(from_floats(TensorType::bf16, values, bytes), 0u);
}

// gguf-py writes a file with each block format and what it reads them as.
TEST(TensorTypesTest, BlockFormatsEqualGgufPyBitForBit) {
  const TemporaryDirectory directory;
  const PythonResult result = run_python(R"(
import sys, numpy as np, gguf
from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType as T
random = np.random.default_rng(5)
writer = gguf.GGUFWriter(sys.argv[1] + '/all.gguf', 'test')
scales = {T.Q4_0: [0], T.Q4_1: [0, 2], T.Q5_0: [0], T.Q5_1: [0, 2], T.Q8_0: [0], T.Q4_K: [0, 2],
          T.Q5_K: [0, 2], T.Q6_K: [208], T.F16: [0], T.BF16: [], T.F32: []}
for kind, places in scales.items():
    block, size = GGML_QUANT_SIZES[kind]
    rows = random.integers(0, 256, (6, 8 * size), dtype=np.uint8)
    if kind == T.F32 or kind == T.BF16 or kind == T.F16:
        values = random.standard_normal((6, 8 * block)).astype(np.float32)
        rows = gguf.quants.quantize(values, kind).view(np.uint8)
    for b in range(8):  # scales of every magnitude and sign, subnormal ones too, but finite
        for place in places:
            half = (random.standard_normal(6) * 10.0 ** random.integers(-7, 2, 6)).astype(np.float16)
            if kind != T.F16:
                rows[:, b * size + place:b * size + place + 2] = half.view(np.uint8).reshape(6, 2)
    writer.add_tensor(kind.name, np.ascontiguousarray(rows), raw_dtype=kind)
    gguf.quants.dequantize(rows.copy() if kind != T.F32 else rows.view(np.float32), kind).astype(
        np.float32).tofile(sys.argv[1] + '/' + kind.name)
values = (random.standard_normal((64, 96)) * 10.0 ** random.integers(-8, 4, (64, 1))).astype(np.float32)
values[3] = 0
values.tofile(sys.argv[1] + '/values')
gguf.quants.quantize(values, T.Q8_0).tofile(sys.argv[1] + '/quantized')
gguf.quants.quantize(values, T.BF16).tofile(sys.argv[1] + '/bfloat16')
values.astype(np.float16).tofile(sys.argv[1] + '/half')
writer.write_header_to_file(); writer.write_kv_data_to_file(); writer.write_tensors_to_file(); writer.close()
)",
                                         {directory.path()});
  if (!result.available) GTEST_SKIP() << result.output;
  ASSERT_EQ(result.exit_code, 0) << result.output;

  const GgufFile file(directory / "all.gguf");
  ASSERT_EQ(file.tensors().size(), 11u);
  for (const GgufTensor& tensor : file.tensors()) {
    const std::string expected = read_file(directory / tensor.name);
    std::vector<float> values(expected.size() / sizeof(float));
    ASSERT_EQ(static_cast<size_t>(tensor.shape[0] * tensor.shape[1]), values.size());
    to_floats(tensor.type, tensor.bytes, values);
    size_t different = 0;
    for (size_t i = 0; i < values.size(); ++i) {
      float want = 0;
      std::memcpy(&want, expected.data() + i * sizeof(float), sizeof(float));
      if (values[i] != want) ++different;
    }
    EXPECT_EQ(different, 0u) << tensor.name << " of " << values.size();
  }

  const std::string stored = read_file(directory / "values");
  std::vector<float> values(stored.size() / sizeof(float));
  std::memcpy(values.data(), stored.data(), stored.size());
  const std::pair<TensorType, const char*> written[] = {
      {TensorType::q8_0, "quantized"}, {TensorType::bf16, "bfloat16"}, {TensorType::f16, "half"}};
  for (const auto& [type, name] : written) {
    std::vector<std::byte> bytes(bytes_of_values(type, values.size()));
    from_floats(type, values, bytes);
    const std::string expected = read_file(directory / name);
    ASSERT_EQ(bytes.size(), expected.size()) << name;
    EXPECT_EQ(std::memcmp(bytes.data(), expected.data(), bytes.size()), 0) << name;
  }
}

}  // namespace
}  // namespace train_sft
