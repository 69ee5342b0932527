#include "train_sft/interop/gguf.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <fstream>
#include <random>

#include "support/temporary_directory.h"
#include "train_sft/base/error.h"
#include "train_sft/interop/model_source.h"
#include "unit/interop/gguf_builder.h"

namespace train_sft {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

void write_bytes(const std::string& path, const std::string& bytes) {
  std::ofstream(path, std::ios::binary) << bytes;
}

std::string error_of(const std::string& bytes) {
  const TemporaryDirectory directory;
  write_bytes(directory / "bad.gguf", bytes);
  try {
    GgufFile file(directory / "bad.gguf");
  } catch (const CheckpointError& error) {
    return error.what();
  }
  return "";
}

GgufBuilder small_file() {
  GgufBuilder builder;
  builder.str("general.architecture", "llama")
      .u32("llama.block_count", 7)
      .f32("eps", 1e-5f)
      .value("flag", 7, std::string(1, '\1'))
      .value("words", 9,
             GgufBuilder::raw(uint32_t{8}) + GgufBuilder::raw(uint64_t{2}) +
                 GgufBuilder::text("Ġa") + GgufBuilder::text(""))
      .value("ints", 9,
             GgufBuilder::raw(uint32_t{5}) + GgufBuilder::raw(uint64_t{2}) +
                 GgufBuilder::raw(int32_t{-3}) + GgufBuilder::raw(int32_t{4}))
      .tensor("m", {3, 2}, 0, 0)
      .tensor("v", {2}, 1, 32)
      .data(GgufBuilder::raw(1.0f) + std::string(28, '\0') + std::string("\x00\x3c\x00\xc0", 4));
  return builder;
}

TEST(GgufTest, ValuesAndTensorsAreRead) {
  const TemporaryDirectory directory;
  write_bytes(directory / "small.gguf", small_file().bytes());
  const GgufFile file(directory / "small.gguf");
  EXPECT_EQ(file.text("general.architecture"), "llama");
  EXPECT_EQ(file.integer("llama.block_count"), 7);
  EXPECT_EQ(file.number_or("eps", 0), 1e-5) << "the number that was written, not its float32";
  EXPECT_TRUE(file.flag_or("flag", false));
  EXPECT_THAT(file.texts("words"), ElementsAre("Ġa", ""));
  EXPECT_THAT(file.integers("ints"), ElementsAre(-3, 4));
  EXPECT_THROW(file.integer("eps"), CheckpointError);
  EXPECT_THROW(file.integer("absent"), CheckpointError);
  ASSERT_EQ(file.tensors().size(), 2u);
  EXPECT_THAT(file.tensors()[0].shape, ElementsAre(2, 3)) << "slowest first";
  std::vector<float> halves(2);
  to_floats(file.tensors()[1].type, file.tensors()[1].bytes, halves);
  EXPECT_THAT(halves, ElementsAre(1.0f, -2.0f));
}

TEST(GgufTest, EveryCutOfAValidFileIsRefused) {
  const std::string whole = small_file().bytes();
  for (size_t length = 0; length < whole.size(); ++length)
    EXPECT_NE(error_of(whole.substr(0, length)), "") << "cut to " << length;
  EXPECT_EQ(error_of(whole), "");
}

struct Malformed {
  const char* name;
  std::string file;
  const char* message;
};

std::vector<Malformed> malformed_cases() {
  const auto raw32 = [](uint32_t v) { return GgufBuilder::raw(v); };
  const auto raw64 = [](uint64_t v) { return GgufBuilder::raw(v); };
  GgufBuilder version1, big_endian, many_tensors, many_values;
  version1.version = 1;
  big_endian.version = 0x03000000;
  many_tensors.extra_tensors = uint64_t{1} << 60;
  many_values.extra_values = UINT64_MAX;
  const std::string data(64, '\0');
  return {
      {"magic", "GGML" + std::string(40, '\0'), "not a GGUF file"},
      {"version", version1.bytes(), "version 1"},
      {"endianness", big_endian.bytes(), "big-endian"},
      {"tensor_count", many_tensors.bytes(), "the number of tensors"},
      {"value_count", many_values.bytes(), "the number of metadata values"},
      {"value_type", GgufBuilder().value("k", 99, raw64(0)).bytes(), "unknown type 99"},
      {"string_length", GgufBuilder().value("k", 8, raw64(UINT64_MAX)).bytes(), "'k'"},
      {"array_count", GgufBuilder().value("k", 9, raw32(4) + raw64(1ULL << 62)).bytes(),
       "the length of metadata 'k'"},
      {"array_of_arrays", GgufBuilder().value("k", 9, raw32(9) + raw64(0)).bytes(),
       "array of type 9"},
      {"bool_value", GgufBuilder().value("k", 7, "\x02").bytes(), "expected 0 or 1"},
      {"huge_integer", GgufBuilder().value("k", 10, raw64(UINT64_MAX)).bytes(), "beyond 2^63"},
      {"key_twice", GgufBuilder().u32("k", 1).u32("k", 1).bytes(), "occurs twice"},
      {"empty_key", GgufBuilder().u32("", 1).bytes(), "has 0 bytes"},
      {"alignment", GgufBuilder().u32("general.alignment", 33).bytes(), "power of two"},
      {"alignment_type", GgufBuilder().str("general.alignment", "32").bytes(), "power of two"},
      {"dimensions", GgufBuilder().tensor("t", {1, 1, 1, 1, 1}, 0, 0).data(data).bytes(),
       "5 dimensions"},
      {"shape_overflow", GgufBuilder().tensor("t", {1ULL << 40, 1ULL << 40}, 0, 0).bytes(),
       "overflows"},
      {"negative_size", GgufBuilder().tensor("t", {UINT64_MAX}, 0, 0).bytes(), "overflows"},
      {"number_format", GgufBuilder().tensor("t", {256}, 10, 0).data(data).bytes(), "format 10"},
      {"half_blocks", GgufBuilder().tensor("t", {33}, 8, 0).data(data).bytes(),
       "whole Q8_0 blocks"},
      {"offset", GgufBuilder().tensor("t", {2}, 0, 1ULL << 60).data(data).bytes(), "beyond the 64"},
      {"unaligned", GgufBuilder().tensor("t", {2}, 0, 8).data(data).bytes(), "multiple of 32"},
      {"overlap", GgufBuilder().tensor("a", {9}, 0, 0).tensor("b", {2}, 0, 32).data(data).bytes(),
       "inside another"},
      {"tensor_twice",
       GgufBuilder().tensor("t", {2}, 0, 0).tensor("t", {2}, 0, 32).data(data).bytes(),
       "listed twice"},
  };
}

class GgufMalformed : public ::testing::TestWithParam<Malformed> {};
TEST_P(GgufMalformed, IsRefusedWithThePlace) {
  const std::string said = error_of(GetParam().file);
  EXPECT_THAT(said, HasSubstr("bad.gguf"));
  EXPECT_THAT(said, HasSubstr(GetParam().message));
}
INSTANTIATE_TEST_SUITE_P(Table, GgufMalformed, ::testing::ValuesIn(malformed_cases()),
                         [](const auto& info) { return info.param.name; });

TEST(GgufTest, DamagedBytesGiveAnErrorOrAFileNeverACrash) {
  const std::string whole = small_file().bytes();
  std::mt19937 random(7);
  const TemporaryDirectory directory;
  size_t refused = 0;
  for (int round = 0; round < 3000; ++round) {
    std::string bytes = whole;
    for (int flips = 0; flips < 1 + round % 4; ++flips)
      bytes[random() % bytes.size()] = static_cast<char>(random());
    write_bytes(directory / "damaged.gguf", bytes);
    try {
      const GgufFile file(directory / "damaged.gguf");
      for (const GgufTensor& tensor : file.tensors()) {
        size_t values = 1;
        for (const int64_t size : tensor.shape) values *= static_cast<size_t>(size);
        std::vector<float> read(values);
        to_floats(tensor.type, tensor.bytes, read);
      }
    } catch (const CheckpointError&) {
      ++refused;
    }
  }
  EXPECT_GT(refused, 1000u);
}

// A whole model of one layer, with one setting changed or added.
std::string open_error(const std::function<void(GgufBuilder&)>& change) {
  GgufBuilder builder;
  builder.str("general.architecture", "llama")
      .u32("llama.block_count", 1)
      .u32("llama.context_length", 16)
      .u32("llama.embedding_length", 4)
      .u32("llama.feed_forward_length", 4)
      .u32("llama.attention.head_count", 2);
  uint64_t offset = 0;
  const auto tensor = [&](const char* name, std::vector<uint64_t> dimensions) {
    builder.tensor(name, dimensions, 0, offset);
    uint64_t values = 1;
    for (const uint64_t d : dimensions) values *= d;
    offset += (values * 4 + 31) / 32 * 32;
  };
  tensor("token_embd.weight", {4, 6});
  tensor("output_norm.weight", {4});
  for (const char* norm : {"attn_norm", "ffn_norm"})
    tensor(fmt::format("blk.0.{}.weight", norm).c_str(), {4});
  for (const char* matrix :
       {"attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down"})
    tensor(fmt::format("blk.0.{}.weight", matrix).c_str(), {4, 4});
  change(builder);
  builder.data(std::string(offset + 64, '\0'));
  const TemporaryDirectory directory;
  write_bytes(directory / "model.gguf", builder.bytes());
  try {
    open_model(directory / "model.gguf");
  } catch (const CheckpointError& error) {
    return error.what();
  }
  return "";
}

TEST(GgufModelTest, ASettingThatChangesTheMathsIsRefusedByName) {
  EXPECT_EQ(open_error([](GgufBuilder&) {}), "");
  EXPECT_EQ(open_error([](GgufBuilder& b) { b.u32("llama.rope.dimension_count", 2); }), "");
  const auto refused = [](const char* key, uint32_t value) {
    EXPECT_THAT(open_error([&](GgufBuilder& b) { b.u32(key, value); }), HasSubstr(key));
  };
  refused("llama.rope.dimension_count", 1);
  refused("llama.attention.value_length", 4);
  EXPECT_THAT(open_error([](GgufBuilder& b) { b.u32("llama.attention.key_length", 4); }),
              HasSubstr("attn_q.weight"))
      << "read, but the tensors say otherwise";
  refused("llama.expert_count", 8);
  refused("llama.attention.sliding_window", 4096);
  refused("llama.some_new_setting", 1);
  EXPECT_THAT(open_error([](GgufBuilder& b) { b.str("llama.rope.scaling.type", "yarn"); }),
              HasSubstr("'llama.rope.scaling.type' is yarn"));
  EXPECT_THAT(open_error([](GgufBuilder& b) { b.f32("llama.rope.scaling.factor", 4); }),
              HasSubstr("'llama.rope.scaling.factor' is 4"));
}

TEST(GgufModelTest, UnknownTensorsAndSizesThatDoNotFitAreNamed) {
  EXPECT_THAT(open_error([](GgufBuilder& b) { b.tensor("blk.0.attn_q.bias", {4}, 0, 1 << 12); }),
              HasSubstr("model.gguf"));
  EXPECT_THAT(open_error([](GgufBuilder& b) { b.u32("llama.attention.head_count_kv", 1); }),
              HasSubstr("'blk.0.attn_k.weight' has shape [4, 4]"));
  EXPECT_THAT(open_error([](GgufBuilder& b) { b.u32("llama.attention.head_count_kv", 0); }),
              HasSubstr("head_count_kv' is 0"));
}

}  // namespace
}  // namespace train_sft
