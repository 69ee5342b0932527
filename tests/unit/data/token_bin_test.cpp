// Token files of other trainers, read where they lie.
#include "data/token_bin.h"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <unistd.h>

#include <chrono>
#include <cstring>

#include "train_sft/base/memory.h"
#include "unit/data/data_fixture.h"

namespace train_sft {
namespace {

using testing::HasSubstr;

template <typename T>
std::string bytes_of(const std::vector<T>& values) {
  return {reinterpret_cast<const char*>(values.data()), values.size() * sizeof(T)};
}

// As llm.c's write_datafile() does: 256 int32, then the ids.
template <typename T>
std::string llm_c_file(int32_t magic, int32_t version, const std::vector<T>& ids) {
  std::vector<int32_t> header(256);
  header[0] = magic;
  header[1] = version;
  header[2] = static_cast<int32_t>(ids.size());
  return bytes_of(header) + bytes_of(ids);
}

// A tokenizer of a given size: token files are never decoded here.
class Ids : public Tokenizer {
 public:
  Ids(int32_t size, int32_t eos) : size_(size), eos_(eos) {}
  std::vector<int32_t> encode(std::string_view) const override { return {}; }
  std::string decode(std::span<const int32_t>) const override { return {}; }
  std::string token_bytes(int32_t) const override { return {}; }
  int32_t vocab_size() const override { return size_; }
  std::optional<int32_t> special_id(std::string_view) const override { return std::nullopt; }
  int32_t bos_id() const override { return -1; }
  int32_t eos_id() const override { return eos_; }
  int32_t pad_id() const override { return -1; }
  std::string kind() const override { return "ids"; }
  std::string fingerprint() const override { return "ids"; }
  void save(const std::string&, const std::string&) const override {}

 private:
  int32_t size_, eos_;
};

class TokenBinTest : public DataFixture {
 protected:
  TokenBinTest() { config.block_size = 8; }
  DataSplit load_ids(int32_t vocab_size, int32_t eos = -1) {
    return load_data(config, Ids(vocab_size, eos), *chat_template(config.chat_template));
  }
  std::string error(const std::string& bytes, int32_t vocab_size = 50257) {
    config.data = {write("a.bin", bytes)};
    try {
      load_ids(vocab_size);
    } catch (const Error& e) {
      return fmt::format("{} {}", static_cast<int>(e.code()), e.what());
    }
    return "no error";
  }
};

std::vector<int32_t> batch_documents(const RowTable& rows, uint64_t row) {
  return make_batch(rows, row, 1).cu_seqlens;
}

TEST_F(TokenBinTest, NanoGptsFileIsUint16AndADocumentEndsWithItsMark) {
  const std::vector<uint16_t> ids = {5, 6, 3, 60000, 8, 9, 3, 1, 2, 3, 4, 5, 6, 7, 8, 9, 1};
  config.data = {write("a.bin", bytes_of(ids))};
  const Dataset train = load_ids(65536, 3).train;
  EXPECT_EQ(train.tokens.all(), std::vector<int32_t>(ids.begin(), ids.end()));
  EXPECT_TRUE(train.is_text);
  const RowTable rows(train, Packing::sequential, 8);
  ASSERT_EQ(rows.size(), 2U);
  EXPECT_EQ(batch_documents(rows, 0), (std::vector<int32_t>{0, 3, 7, 8}));
  EXPECT_EQ(batch_documents(rows, 1), (std::vector<int32_t>{0, 2, 8}));
  const Batch batch = make_batch(rows, 0, 1);
  EXPECT_EQ(batch.targets, (std::vector<int32_t>{6, 3, kNoTarget, 8, 9, 3, kNoTarget, 2}));
}

TEST_F(TokenBinTest, LlmCsGpt2FileBeginsItsDocuments) {
  const std::vector<uint16_t> ids = {50256, 1, 2, 50256, 3, 4, 5, 6, 7, 8, 9};
  config.data = {write("a.bin", llm_c_file(20240520, 1, ids))};
  const Dataset train = load_ids(50257).train;
  EXPECT_EQ(train.tokens.all(), std::vector<int32_t>(ids.begin(), ids.end()));
  EXPECT_EQ(batch_documents(RowTable(train, Packing::sequential, 8), 0),
            (std::vector<int32_t>{0, 3, 8}));
}

TEST_F(TokenBinTest, LlmCsLlama3FileIsUint32) {
  const std::vector<uint32_t> ids = {128000, 1, 2, 128255, 128000, 4, 5, 6, 7, 8, 9};
  config.data = {write("a.bin", llm_c_file(20240801, 7, ids))};
  const Dataset train = load_ids(128256).train;
  EXPECT_EQ(train.tokens.all(), std::vector<int32_t>(ids.begin(), ids.end()));
  EXPECT_EQ(batch_documents(RowTable(train, Packing::sequential, 8), 0),
            (std::vector<int32_t>{0, 4, 8}));
}

TEST_F(TokenBinTest, BareFilesOfFourByteIdsAreRecognised) {
  const std::vector<int32_t> small = {1, 2, 3, 4, 0, 6, 7, 8, 9, 10};  // llm.c's first files
  config.data = {write("a.bin", bytes_of(small))};
  EXPECT_EQ(load_ids(50257).train.tokens.all(), small);
  const std::vector<int32_t> large = {1, 151000, 3, 4, 5, 6, 7, 8, 9, 10};
  config.data = {write("b.bin", bytes_of(large))};
  EXPECT_EQ(load_ids(151936).train.tokens.all(), large);
}

TEST_F(TokenBinTest, ShardsAreOneStreamAndItsTailValidates) {
  std::vector<uint16_t> all;
  for (uint16_t i = 0; i < 1000; ++i) all.push_back(static_cast<uint16_t>(i * 7 + 1));
  const auto part = [&](size_t from, size_t to) {
    return llm_c_file(20240520, 1,
                      std::vector<uint16_t>(all.begin() + static_cast<long>(from),
                                            all.begin() + static_cast<long>(to)));
  };
  config.data = {write("a.bin", part(0, 333)), write("b.bin", part(333, 900)),
                 write("c.bin", part(900, 1000))};
  config.val_split = 0.1;
  const DataSplit split = load_ids(50257);
  const std::vector<int32_t> wide(all.begin(), all.end());
  EXPECT_EQ(split.train.tokens.all(), std::vector<int32_t>(wide.begin(), wide.begin() + 900));
  EXPECT_EQ(split.validation.tokens.all(), std::vector<int32_t>(wide.begin() + 900, wide.end()));
  // A window over the edge of two shards.
  const RowTable rows(split.train, Packing::sequential, 8);
  EXPECT_EQ(make_batch(rows, 41, 1).tokens,
            std::vector<int32_t>(wide.begin() + 328, wide.begin() + 336));
  config.val_data = {config.data[2]};
  config.data.resize(2);
  EXPECT_EQ(load_ids(50257).validation.tokens.all(), split.validation.tokens.all());
}

TEST_F(TokenBinTest, MalformedFilesAreRefused) {
  const std::vector<uint16_t> ids(20, 7);
  const std::string whole = llm_c_file(20240520, 1, ids);
  EXPECT_THAT(error(whole.substr(0, whole.size() - 2)), HasSubstr("cut short"));
  EXPECT_THAT(error(whole + "ab"), HasSubstr("announces 20"));
  EXPECT_THAT(error(whole.substr(0, 500)), HasSubstr("cut short"));
  EXPECT_THAT(error(llm_c_file(20240520, 2, ids)), HasSubstr("version 2"));
  EXPECT_THAT(error(llm_c_file(20240801, 1, ids)), HasSubstr("version 1"));
  EXPECT_THAT(error(llm_c_file(20240522, 1, ids)), HasSubstr("evaluation"));
  EXPECT_THAT(error(llm_c_file(20240326, 3, ids)), HasSubstr("model"));
  EXPECT_THAT(error(""), HasSubstr("empty"));
  EXPECT_THAT(error("abc"), HasSubstr("3 bytes"));
  std::vector<uint16_t> outside(5000, 7);
  outside[3210] = 60000;
  EXPECT_THAT(error(bytes_of(outside)), testing::AllOf(HasSubstr("a.bin"), HasSubstr("60000")));
  EXPECT_THAT(error(llm_c_file(20240801, 7, std::vector<uint32_t>{1, 2, 0x80000001U}), 128256),
              HasSubstr("a.bin"));
}

TEST_F(TokenBinTest, TokenFilesAreNotMixedWithTextAndNotPackedAsExamples) {
  const std::string bin = write("a.bin", bytes_of(std::vector<uint16_t>(50, 7)));
  config.data = {bin, write("b.txt", "the cat")};
  EXPECT_THROW(load_ids(50257), UsageError);
  config.data = {bin};
  config.packing = "best_fit";
  EXPECT_THROW(load_ids(50257), UsageError);
  config.packing = "auto";
  config.data = {bin + "*1.5"};
  EXPECT_THROW(load_ids(50257), UsageError);
  config.data = {bin + "*2"};
  EXPECT_EQ(load_ids(50257).train.tokens.size(), 100U);
}

// 51 billion ids in a file of holes: addressed, ordered and opened without touching it all.
TEST_F(TokenBinTest, FiftyOneBillionTokensAreAddressable) {
  constexpr uint64_t kTokens = 51'000'000'000;
  constexpr uint64_t kBlock = 1024;
  const std::string path = directory / "huge.bin";
  const int fd = ::open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600);
  ASSERT_GE(fd, 0);
  if (::ftruncate(fd, kTokens * 2) != 0) {
    ::close(fd);
    GTEST_SKIP() << "this file system has no files of " << kTokens * 2 << " bytes";
  }
  const std::vector<uint64_t> planted = {0, (uint64_t{1} << 32) / kBlock + 1,
                                         25'000'000'000 / kBlock, (kTokens - 1) / kBlock - 1};
  const auto ids_of = [&](uint64_t row) {
    std::vector<uint16_t> ids;
    for (uint64_t i = 0; i < kBlock; ++i)
      ids.push_back(static_cast<uint16_t>(1 + (row * 31 + i) % 50000));
    return ids;
  };
  for (const uint64_t row : planted) {
    const std::string bytes = bytes_of(ids_of(row));
    ASSERT_EQ(::pwrite(fd, bytes.data(), bytes.size(), static_cast<off_t>(row * kBlock * 2)),
              static_cast<ssize_t>(bytes.size()));
  }
  ::close(fd);

  config.data = {path};
  config.block_size = kBlock;
  const uint64_t resident = resident_bytes();
  const auto begin = std::chrono::steady_clock::now();
  const DataSplit split = load_ids(50257);
  const RowTable rows(split.train, Packing::sequential, kBlock);
  const RowOrder order(rows.size(), 1337, true, 256);
  EXPECT_EQ(rows.size(), (kTokens - 1) / kBlock);
  EXPECT_EQ(order.steps_per_epoch(), (rows.size() + 255) / 256);
  for (const uint64_t row : planted) {
    const std::vector<uint16_t> expected = ids_of(row);
    EXPECT_EQ(make_batch(rows, row, 1).tokens,
              std::vector<int32_t>(expected.begin(), expected.end()))
        << row;
  }
  // Steps at both ends of three epochs read rows from all over the file.
  uint64_t furthest = 0;
  for (const uint64_t step : {uint64_t{0}, order.steps_per_epoch() * 3 - 1}) {
    for (uint64_t i = 0; i < order.rows_in_step(step); ++i) {
      furthest = std::max(furthest, order.row(step, i));
    }
    EXPECT_GT(make_batch(rows, order, step, 0, 8).size(), 0);
  }
  EXPECT_GT(furthest * kBlock, uint64_t{1} << 32);
  const std::chrono::duration<double> took = std::chrono::steady_clock::now() - begin;
  EXPECT_LT(took.count(), 5.0) << "seconds";
  EXPECT_LT(resident_bytes() - resident, uint64_t{64} << 20) << "bytes";
}

}  // namespace
}  // namespace train_sft
