#include "train_sft/interop/safetensors.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstring>

#include "support/python.h"
#include "support/temporary_directory.h"
#include "train_sft/base/checksum.h"
#include "train_sft/base/error.h"

namespace train_sft {
namespace {

using ::testing::HasSubstr;

template <typename T>
std::span<const std::byte> bytes_of(const std::vector<T>& values) {
  return std::as_bytes(std::span(values));
}

void write_text(const std::string& path, const std::string& contents) {
  FileWriter file(path, FileWriter::Mode::truncate);
  file.write(contents);
  file.close();
}

// A file with this header and this many bytes of data.
std::string file_with(const std::string& header, size_t data_bytes) {
  std::string file(8, '\0');
  for (size_t i = 0; i < 8; ++i) file[i] = static_cast<char>(header.size() >> (8 * i) & 0xff);
  return file + header + std::string(data_bytes, 'x');
}

std::string one_tensor(const std::string& dtype, const std::string& shape,
                       const std::string& offsets) {
  return R"({"w":{"dtype":)" + dtype + R"(,"shape":)" + shape + R"(,"data_offsets":)" + offsets +
         "}}";
}

struct MalformedHeader {
  const char* name;
  std::string file;
  const char* message;  // what the error must say
};

std::vector<MalformedHeader> malformed_headers() {
  const std::string huge_length = std::string("\xff\xff\xff\xff\xff\xff\xff\xff", 8) + "{}";
  const std::string past_end = std::string("\x40\0\0\0\0\0\0\0", 8) + "{}";
  const std::string deep = R"({"w":)" + std::string(100000, '[') + std::string(100000, ']') + "}";
  const std::string bad_utf8 = "{\"\xff\":{\"dtype\":\"U8\",\"shape\":[0],\"data_offsets\":[0,0]}}";
  return {
      {"Empty", "", "too short"},
      {"SevenBytes", std::string(7, '\0'), "too short"},
      {"HeaderLengthHuge", huge_length, "exceeds"},
      {"HeaderLengthPastEnd", past_end, "past the end"},
      {"HeaderEmpty", file_with("", 0), "begin with"},
      {"HeaderNotAnObject", file_with("[1]", 0), "begin with"},
      {"HeaderBeginsWithSpace", file_with(" {}", 0), "begin with"},
      {"HeaderCut", file_with(R"({"w":{"dtype":"F32")", 0), "not valid JSON"},
      {"HeaderNotUtf8", file_with(bad_utf8, 0), "not valid JSON"},
      {"HeaderThenGarbage", file_with("{}{}", 0), "not valid JSON"},
      {"HeaderNestsDeep", file_with(deep, 0), "nests deeper"},
      {"NameTwice",
       file_with(R"({"w":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},)"
                 R"("w":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}})",
                 1),
       "'w' twice"},
      {"MetadataNotAnObject", file_with(R"({"__metadata__":[]})", 0), "__metadata__"},
      {"MetadataNotStrings", file_with(R"({"__metadata__":{"a":1}})", 0), "'a' must be a string"},
      {"TensorNotAnObject", file_with(R"({"w":3})", 0), "must be an object"},
      {"DtypeMissing", file_with(R"({"w":{"shape":[1],"data_offsets":[0,4]}})", 4),
       "'dtype' is missing"},
      {"ShapeMissing", file_with(R"({"w":{"dtype":"F32","data_offsets":[0,4]}})", 4),
       "'shape' is missing"},
      {"OffsetsMissing", file_with(R"({"w":{"dtype":"F32","shape":[1]}})", 4),
       "'data_offsets' is missing"},
      {"DtypeUnknown", file_with(one_tensor("\"F31\"", "[1]", "[0,4]"), 4), "unknown dtype 'F31'"},
      {"DtypeNotAString", file_with(one_tensor("7", "[1]", "[0,4]"), 4), "'dtype' must be"},
      {"ShapeNegative", file_with(one_tensor("\"F32\"", "[-1]", "[0,4]"), 4), "not negative"},
      {"ShapeFraction", file_with(one_tensor("\"F32\"", "[1.5]", "[0,4]"), 4), "integers"},
      {"ShapeNotAList", file_with(one_tensor("\"F32\"", "4", "[0,4]"), 4), "must be a list"},
      {"ShapeOverflows",
       file_with(one_tensor("\"F32\"", "[4611686018427387904,4611686018427387904]", "[0,4]"), 4),
       "overflows"},
      {"ShapeWrapsToZero", file_with(one_tensor("\"F32\"", "[4611686018427387904]", "[0,0]"), 0),
       "overflows"},
      {"ShapeOverInt64", file_with(one_tensor("\"U8\"", "[18446744073709551615]", "[0,4]"), 4),
       "overflows"},
      {"OffsetsThree", file_with(one_tensor("\"F32\"", "[1]", "[0,4,8]"), 4), "[begin, end]"},
      {"OffsetsReversed", file_with(one_tensor("\"F32\"", "[1]", "[4,0]"), 4), "outside"},
      {"OffsetsPastEnd", file_with(one_tensor("\"F32\"", "[2]", "[0,8]"), 4), "outside"},
      {"OffsetsNegative", file_with(one_tensor("\"F32\"", "[1]", "[-4,0]"), 4), "not negative"},
      {"SizeDisagreesWithShape", file_with(one_tensor("\"F32\"", "[2]", "[0,4]"), 4), "need 8"},
      {"DataBeforeFirst", file_with(one_tensor("\"U8\"", "[1]", "[1,2]"), 2),
       "begins at data byte 1"},
      {"DataAfterLast", file_with(one_tensor("\"U8\"", "[1]", "[0,1]"), 3), "end at data byte 1"},
      {"Overlap",
       file_with(R"({"a":{"dtype":"U8","shape":[2],"data_offsets":[0,2]},)"
                 R"("b":{"dtype":"U8","shape":[2],"data_offsets":[1,3]}})",
                 3),
       "begins at data byte 1"},
      {"Hole",
       file_with(R"({"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},)"
                 R"("b":{"dtype":"U8","shape":[1],"data_offsets":[2,3]}})",
                 3),
       "begins at data byte 2"},
  };
}

class SafetensorsMalformed : public ::testing::TestWithParam<MalformedHeader> {};

TEST_P(SafetensorsMalformed, IsRefusedNamingFileAndFault) {
  const TemporaryDirectory directory;
  const std::string path = directory / "bad.safetensors";
  write_text(path, GetParam().file);
  try {
    SafetensorsFile file(path);
    FAIL() << "was accepted with " << file.entries().size() << " tensors";
  } catch (const CheckpointError& error) {
    EXPECT_THAT(error.what(), HasSubstr("bad.safetensors"));
    EXPECT_THAT(error.what(), HasSubstr(GetParam().message));
  }
}

INSTANTIATE_TEST_SUITE_P(Table, SafetensorsMalformed, ::testing::ValuesIn(malformed_headers()),
                         [](const auto& info) { return info.param.name; });

TEST(SafetensorsTest, EveryCutOfAValidFileIsRefused) {
  const TemporaryDirectory directory;
  const std::vector<float> values = {1, 2, 3};
  write_safetensors(directory / "whole", {{"w", "F32", {3}, bytes_of(values)}});
  const std::string whole = read_file(directory / "whole");
  for (size_t length = 0; length < whole.size(); ++length) {
    write_text(directory / "cut", whole.substr(0, length));
    EXPECT_THROW(SafetensorsFile(directory / "cut"), CheckpointError) << "cut to " << length;
  }
}

TEST(SafetensorsTest, MissingFileIsACheckpointError) {
  EXPECT_THROW(SafetensorsFile("/nonexistent/model.safetensors"), CheckpointError);
}

TEST(SafetensorsTest, WhatIsWrittenIsRead) {
  const TemporaryDirectory directory;
  const std::string path = directory / "model.safetensors";
  const std::vector<float> matrix = {1, 2, 3, 4, 5, 6};
  const std::vector<uint8_t> flags = {1, 0, 1};
  const std::vector<int64_t> scalar = {-7};
  const std::string checksum = write_safetensors(path,
                                                 {{"z.first", "F32", {2, 3}, bytes_of(matrix)},
                                                  {"naïve \"name\"", "U8", {3}, bytes_of(flags)},
                                                  {"empty", "BF16", {0, 4}, {}},
                                                  {"a.scalar", "I64", {}, bytes_of(scalar)}},
                                                 {{"format", "pt"}});
  EXPECT_EQ(checksum, checksum_of_file(path));

  const SafetensorsFile file(path);
  ASSERT_EQ(file.entries().size(), 4u);
  EXPECT_EQ(file.metadata().at("format"), "pt");
  const SafetensorsEntry* first = file.find("z.first");
  ASSERT_NE(first, nullptr);
  EXPECT_EQ(first, &file.entries().front());
  EXPECT_EQ(first->dtype, "F32");
  EXPECT_EQ(first->shape, (std::vector<int64_t>{2, 3}));
  EXPECT_EQ(reinterpret_cast<uintptr_t>(first->bytes.data()) % 64, 0u);
  ASSERT_EQ(first->bytes.size(), 24u);
  EXPECT_EQ(std::memcmp(first->bytes.data(), matrix.data(), 24), 0);
  ASSERT_NE(file.find("naïve \"name\""), nullptr);
  EXPECT_EQ(file.find("empty")->bytes.size(), 0u);
  EXPECT_TRUE(file.find("a.scalar")->shape.empty());
  EXPECT_EQ(file.find("missing"), nullptr);
}

TEST(SafetensorsTest, SameEntriesGiveTheSameBytes) {
  const TemporaryDirectory directory;
  const std::vector<float> values = {1, 2};
  const std::vector<SafetensorsEntry> entries = {{"b", "F32", {2}, bytes_of(values)},
                                                 {"a", "F32", {1, 2}, bytes_of(values)}};
  const std::map<std::string, std::string> metadata = {{"y", "2"}, {"x", "1"}};
  const std::string first = write_safetensors(directory / "1", entries, metadata);
  EXPECT_EQ(first, write_safetensors(directory / "2", entries, metadata));
  EXPECT_EQ(read_file(directory / "1"), read_file(directory / "2"));
}

TEST(SafetensorsTest, PythonsSafetensorsReadsOurFile) {
  const TemporaryDirectory directory;
  const std::vector<float> matrix = {0.5f, -1.25f, 3, 4, 5, 6};
  const std::vector<uint16_t> halves = {0x3f80, 0xc000};  // bfloat16 1 and -2
  write_safetensors(
      directory / "ours.safetensors",
      {{"matrix", "F32", {2, 3}, bytes_of(matrix)}, {"halves", "BF16", {2}, bytes_of(halves)}},
      {{"format", "pt"}});
  const PythonResult result = run_python(R"(
import sys, torch
from safetensors import safe_open
with safe_open(sys.argv[1], 'pt') as f:
    assert f.metadata() == {'format': 'pt'}, f.metadata()
    assert sorted(f.keys()) == ['halves', 'matrix'], f.keys()
    assert torch.equal(f.get_tensor('matrix'), torch.tensor([[0.5, -1.25, 3], [4, 5, 6]]))
    assert torch.equal(f.get_tensor('halves'), torch.tensor([1, -2], dtype=torch.bfloat16))
)",
                                         {directory / "ours.safetensors"});
  if (!result.available) GTEST_SKIP() << result.output;
  EXPECT_EQ(result.exit_code, 0) << result.output;
}

TEST(SafetensorsTest, WeReadPythonsFile) {
  const TemporaryDirectory directory;
  const PythonResult result = run_python(R"(
import sys, torch
from safetensors.torch import save_file
save_file({'b': torch.arange(6, dtype=torch.float32).reshape(3, 2), 'a': torch.ones(3, dtype=torch.bfloat16)},
          sys.argv[1], {'who': 'python'})
)",
                                         {directory / "theirs.safetensors"});
  if (!result.available) GTEST_SKIP() << result.output;
  ASSERT_EQ(result.exit_code, 0) << result.output;
  const SafetensorsFile file(directory / "theirs.safetensors");
  EXPECT_EQ(file.metadata().at("who"), "python");
  const SafetensorsEntry* b = file.find("b");
  ASSERT_NE(b, nullptr);
  EXPECT_EQ(b->shape, (std::vector<int64_t>{3, 2}));
  float last = 0;
  std::memcpy(&last, b->bytes.data() + 5 * sizeof(float), sizeof(float));
  EXPECT_EQ(last, 5.0f);
  ASSERT_NE(file.find("a"), nullptr);
  EXPECT_EQ(file.find("a")->dtype, "BF16");
}

}  // namespace
}  // namespace train_sft
