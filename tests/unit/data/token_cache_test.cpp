#include "data/token_cache.h"

#include <gmock/gmock.h>
#include <sys/stat.h>
#include <unistd.h>
#include <zlib.h>
#include <zstd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <filesystem>
#include <map>

#include "data/parts.h"
#include "data/stored_dataset.h"
#include "train_sft/base/file_system.h"
#include "train_sft/text/bpe.h"
#include "unit/data/data_fixture.h"
#include "unit/text/bpe_sample.h"

namespace train_sft {
namespace {

using testing::HasSubstr;

class TokenCacheTest : public DataFixture {
 protected:
  TokenCacheTest() {
    config.cache_dir = directory / "cache";
    config.val_split = 0.1;
  }
  // The one entry of the cache.
  std::string entry() const {
    std::vector<std::string> names = list_directory(config.cache_dir);
    EXPECT_EQ(names.size(), 1U);
    return join_path(config.cache_dir, names.at(0));
  }
  std::map<std::string, std::string> contents() const {
    std::map<std::string, std::string> files;
    const std::string data = join_path(entry(), "data");
    for (const std::string& name : list_directory(data)) {
      files[name] = read_file(join_path(data, name));
    }
    return files;
  }
  ino_t inode() const {
    struct ::stat status {};
    EXPECT_EQ(::stat(join_path(entry(), "data/train.tokens").c_str(), &status), 0);
    return status.st_ino;
  }
  void expect_nothing_left() const {
    for (const std::string& name : list_directory(entry())) {
      EXPECT_TRUE(name == "data" || name == ".lock" || name.starts_with("rows_")) << name;
    }
  }
  static std::string text_of(int lines) {
    std::string text;
    for (int i = 0; i < lines; ++i) {
      text += fmt::format("the cat {} walks — été 東京 in the garden\r\n{}", i,
                          i % 50 == 0 ? "\r\n\n" : "");
    }
    return text;
  }
};

void expect_equal(const Dataset& a, const Dataset& b) {
  EXPECT_EQ(a.is_text, b.is_text);
  EXPECT_EQ(a.fingerprint(), b.fingerprint());
  EXPECT_EQ(a.tokens.all(), b.tokens.all());
  EXPECT_EQ(a.weights.all(), b.weights.all());
  EXPECT_TRUE(std::equal(a.offsets.begin(), a.offsets.end(), b.offsets.begin(), b.offsets.end()));
  EXPECT_TRUE(std::equal(a.ids.begin(), a.ids.end(), b.ids.begin(), b.ids.end()));
  EXPECT_EQ(to_json(a.report), to_json(b.report));
}

TEST_F(TokenCacheTest, ColdWarmAndInMemoryAreTheSame) {
  std::string lines;
  for (int i = 0; i < 300; ++i)
    lines += fmt::format("{{\"text\":\"the cat {} walks\"}}\n", i % 200);
  for (const std::string& file :
       {write("a.json", alpaca_records(300)), write("b.jsonl", lines), write("c.txt", text_of(900)),
        write("d.jsonl", "{\"prompt\":\"a {{who}}\",\"completion\":\"b\"}\n")}) {
    SCOPED_TRACE(file);
    config.data = {file};
    if (file.ends_with("d.jsonl")) config.val_split = 0;
    remove_tree(config.cache_dir);
    const DataSplit cold = load();
    const ino_t made = inode();
    expect_nothing_left();
    const DataSplit warm = load();
    EXPECT_EQ(inode(), made) << "the cache was written again";
    const std::string cache_dir = std::exchange(config.cache_dir, "none");
    const DataSplit memory = load();
    config.cache_dir = cache_dir;
    for (const DataSplit* other : {&warm, &memory}) {
      expect_equal(cold.train, other->train);
      expect_equal(cold.validation, other->validation);
      EXPECT_EQ(cold.overlap, other->overlap);
      EXPECT_EQ(cold.unknown_vars, other->unknown_vars);
    }
  }
}

TEST_F(TokenCacheTest, TheBytesDoNotDependOnThreads) {
  std::string lines;
  for (int i = 0; i < 20000; ++i) lines += fmt::format("{{\"text\":\"the cat {} walks\"}}\n", i);
  config.data = {write("a.txt", text_of(20000)), write("b.jsonl", lines),
                 write("c.txt", text_of(3000)) + "*2"};
  std::map<std::string, std::string> one;
  for (const int threads : {1, 2, 3}) {
    config.threads = threads;
    remove_tree(config.cache_dir);
    load();
    if (threads == 1) one = contents();
    for (const auto& [name, bytes] : contents()) EXPECT_EQ(bytes, one[name]) << name;
  }
}

// Chunks are cut at 64 KiB here, blocks of reading at 256 KiB, both inside characters and "\r\n".
TEST_F(TokenCacheTest, TextInManyChunksIsTheTokensOfTheWhole) {
  const auto byte_level = bpe_tokenizer(sample_bpe_with(kLlama3Pattern), "test");
  for (const Tokenizer* each : {&tokenizer, static_cast<const Tokenizer*>(byte_level.get())}) {
    for (const int shift : {0, 1, 2, 3}) {
      const std::string raw = std::string(static_cast<size_t>(shift), 'x') + text_of(9000);
      std::string text;
      for (size_t i = 0; i < raw.size(); ++i) {
        if (raw[i] != '\r') text += raw[i];
      }
      config.data = {write("a.txt", "\xEF\xBB\xBF" + raw)};
      config.val_split = 0;
      std::vector<int32_t> expected = each->encode(text);
      if (each->eos_id() >= 0) expected.push_back(each->eos_id());
      EXPECT_EQ(load_data(config, *each, *chat_template("chatml")).train.tokens.all(), expected);
    }
  }
}

std::string gzipped(const std::string& path, const std::string& text) {
  const gzFile file = gzopen(path.c_str(), "wb");
  EXPECT_EQ(gzwrite(file, text.data(), static_cast<unsigned>(text.size())),
            static_cast<int>(text.size()));
  EXPECT_EQ(gzclose(file), Z_OK);
  return path;
}

TEST_F(TokenCacheTest, CompressedFilesAreReadInPiecesToTheSameTokens) {
  const std::string text = text_of(20000);
  std::string lines;
  for (int i = 0; i < 20000; ++i) lines += fmt::format("{{\"text\":\"the cat {} walks\"}}\n", i);
  for (const bool json : {false, true}) {
    const std::string& content = json ? lines : text;
    const std::string name = json ? "a.jsonl" : "a.txt";
    config.data = {write(name, content)};
    const DataSplit plain = load();
    EXPECT_GT(plain.validation.tokens.size(), 0U);
    std::string zstd(ZSTD_compressBound(content.size()), '\0');
    zstd.resize(ZSTD_compress(zstd.data(), zstd.size(), content.data(), content.size(), 3));
    for (const std::string& packed :
         {gzipped(directory / (name + ".gz"), content), write(name + ".zst", zstd)}) {
      config.data = {packed};
      for (int warm = 0; warm < 2; ++warm) {
        const DataSplit split = load();
        expect_equal(split.train, plain.train);
        expect_equal(split.validation, plain.validation);
      }
    }
  }
}

TEST_F(TokenCacheTest, ContentThatChangesAtTheSameSizeIsReadAnew) {
  config.data = {write("a.json", alpaca_records(30))};
  const std::string first = load().train.fingerprint();
  std::string changed = alpaca_records(30);
  changed.replace(changed.find("walks"), 5, "waits");
  write("a.json", changed);
  EXPECT_NE(load().train.fingerprint(), first);
  entry();  // the earlier state's is gone
}

TEST_F(TokenCacheTest, AFileThatWasOnlyTouchedOrMovedIsNot) {
  config.data = {write("a.json", alpaca_records(30))};
  load();
  const ino_t made = inode();
  const auto time = std::filesystem::last_write_time(config.data[0]) + std::chrono::hours(1);
  std::filesystem::last_write_time(config.data[0], time);
  load();
  EXPECT_EQ(inode(), made);
  std::filesystem::rename(config.data[0], directory / "b.json");
  config.data = {directory / "b.json"};
  load();
  EXPECT_EQ(inode(), made);
}

TEST_F(TokenCacheTest, SettingsThatChangeTheTokensMakeAnotherCacheAndOthersDoNot) {
  config.data = {write("a.json", alpaca_records(30))};
  load();
  const ino_t made = inode();
  config.seed = 7;
  config.packing = "best_fit";
  config.threads = 2;
  load();
  EXPECT_EQ(inode(), made);
  const auto caches = [&] { return list_directory(config.cache_dir).size(); };
  config.block_size = 32;
  load();
  EXPECT_EQ(caches(), 2U);
  config.train_on = "all";
  load();
  EXPECT_EQ(caches(), 3U);
  config.chat_template = "alpaca";
  load();
  EXPECT_EQ(caches(), 4U);
  config.packing = "auto";
  config.data = {write("a.txt", text_of(100))};
  load();
  EXPECT_EQ(caches(), 5U);
  config.block_size = 16;
  config.train_on = "last";
  load();
  EXPECT_EQ(caches(), 5U) << "a stream of text does not depend on these";
  config.val_split = 0.2;
  load();
  EXPECT_EQ(caches(), 6U);
}

TEST_F(TokenCacheTest, AFlippedByteInAnyFileIsFoundAndTheCacheMadeAgain) {
  config.data = {write("a.json", alpaca_records(60))};
  load();
  const auto whole = contents();
  EXPECT_EQ(whole.size(), 13U) << "a manifest, six columns a side";
  for (const auto& [name, bytes] : whole) {
    SCOPED_TRACE(name);
    std::string damaged = bytes;
    damaged[damaged.size() / 2] = static_cast<char>(damaged[damaged.size() / 2] ^ 4);
    write_file_atomically(join_path(entry(), "data/" + name), damaged);
    load();
    EXPECT_EQ(contents(), whole);
    write_file_atomically(join_path(entry(), "data/" + name), bytes.substr(0, bytes.size() / 2));
    load();
    EXPECT_EQ(contents(), whole);
  }
}

TEST_F(TokenCacheTest, SampledChunksAreCheckedAtTheStartAndTheRestByVerifyData) {
  constexpr uint64_t kChunks = 20;
  StoredDataset stored;
  ColumnWriter writer(directory / "train.tokens");
  std::vector<std::byte> chunk(kColumnChunk);
  for (uint64_t i = 0; i < kChunks; ++i) {
    std::fill(chunk.begin(), chunk.end(), static_cast<std::byte>(i));
    writer.write(chunk);
  }
  stored.columns["tokens"] = writer.finish();
  const auto found = [&](uint64_t at, bool every_chunk) {
    std::string bytes(1, '\xFF');
    std::FILE* file = std::fopen((directory / "train.tokens").c_str(), "r+b");
    std::fseek(file, static_cast<long>(at), SEEK_SET);
    std::fwrite(bytes.data(), 1, 1, file);
    std::fclose(file);
    bool threw = false;
    try {
      verify_files(stored, directory.path(), "train", every_chunk);
    } catch (const DataError& error) {
      threw = true;
      EXPECT_THAT(error.what(),
                  HasSubstr(fmt::format("bytes {} to", at / kColumnChunk * kColumnChunk)));
    }
    bytes[0] = static_cast<char>(at / kColumnChunk);
    file = std::fopen((directory / "train.tokens").c_str(), "r+b");
    std::fseek(file, static_cast<long>(at), SEEK_SET);
    std::fwrite(bytes.data(), 1, 1, file);
    std::fclose(file);
    return threw;
  };
  verify_files(stored, directory.path(), "train", true);
  int sampled = 0;
  for (uint64_t i = 0; i < kChunks; ++i) {
    sampled += found(i * kColumnChunk + 77, false) ? 1 : 0;
    EXPECT_TRUE(found(i * kColumnChunk + 77, true)) << i;
  }
  EXPECT_EQ(sampled, 8);
  EXPECT_TRUE(found(0, false) && found(kChunks * kColumnChunk - 1, false)) << "both ends";
}

TEST_F(TokenCacheTest, PackedRowsAreKeptAndMadeAgainWhenDamaged) {
  config.data = {write("a.json", alpaca_records(200))};
  const DataSplit split = load();
  const auto rows_of = [&](const Dataset& dataset) {
    const RowTable rows(dataset, Packing::best_fit, config.block_size);
    std::vector<std::vector<uint64_t>> all;
    for (uint64_t row = 0; row < rows.size(); ++row) all.push_back(rows.examples(row));
    return all;
  };
  const auto first = rows_of(split.train);
  const std::string path = join_path(entry(), "rows_train_best_fit_64");
  const std::string bytes = read_file(path);
  EXPECT_EQ(rows_of(load().train), first);
  for (size_t at = 0; at < bytes.size(); at += 97) {
    std::string damaged = bytes;
    damaged[at] = static_cast<char>(damaged[at] ^ 1);
    write_file_atomically(path, damaged);
    EXPECT_EQ(rows_of(split.train), first);
    EXPECT_EQ(read_file(path), bytes);
  }
}

TEST_F(TokenCacheTest, AHalfWrittenPartIsMadeAgain) {
  make_directories(directory / "parts");
  PartStore store(directory / "parts");
  PartWriter part(2);
  part.add_tokens({1, 2, 3});
  part.end_piece({});
  const std::vector<std::byte> bytes = part.finish(99);
  store.put(0, bytes);
  EXPECT_TRUE(store.has(0, 99));
  EXPECT_FALSE(store.has(0, 98)) << "of other input";
  const std::string path = directory / "parts/00000000.part";
  for (size_t kept = 0; kept < bytes.size(); ++kept) {
    truncate_file(path, kept);
    EXPECT_FALSE(store.has(0, 99)) << kept;
    store.put(0, bytes);
  }
}

TEST_F(TokenCacheTest, WithoutAPlaceToWriteTheTokensStayInMemory) {
  config.data = {write("a.json", alpaca_records(30))};
  write("file", "x");
  config.cache_dir = directory / "file/cache";
  EXPECT_THROW(load(), ResourceError) << "asked for by name";
  write(".cache", "x");
  config.cache_dir = "";
  const std::string before = std::filesystem::current_path();
  std::filesystem::current_path(directory.path());
  EXPECT_GT(load().train.size(), 0U);
  std::filesystem::current_path(before);
}

// The n-th call that writes, and all after it, fail: the disk is gone.
class DyingDisk : public ForwardingFileSystem {
 public:
  explicit DyingDisk(int calls) : ForwardingFileSystem(posix_file_system()), left_(calls) {}
  bool died() const { return left_ < 0; }
  ssize_t write(int fd, const void* bytes, size_t count) override {
    return fails() ? -1 : ForwardingFileSystem::write(fd, bytes, count);
  }
  int fsync(int fd) override { return fails() ? -1 : ForwardingFileSystem::fsync(fd); }
  int rename(const std::string& from, const std::string& to) override {
    return fails() ? -1 : ForwardingFileSystem::rename(from, to);
  }
  int unlink(const std::string& path) override {
    return fails() ? -1 : ForwardingFileSystem::unlink(path);
  }
  int mkdir(const std::string& path, mode_t mode) override {
    return fails() ? -1 : ForwardingFileSystem::mkdir(path, mode);
  }
  int rmdir(const std::string& path) override {
    return fails() ? -1 : ForwardingFileSystem::rmdir(path);
  }

 private:
  bool fails() {
    if (--left_ >= 0) return false;
    errno = EIO;
    return true;
  }
  std::atomic<int> left_;
};

TEST_F(TokenCacheTest, ADiskThatFailsAtAnyWriteLeavesNothingHalf) {
  config.data = {write("a.json", alpaca_records(60))};
  const std::string fingerprint = load().train.fingerprint();
  const auto whole = contents();
  bool survived = false;
  int calls = 0;
  for (; !survived && calls < 500; ++calls) {
    SCOPED_TRACE(calls);
    remove_tree(config.cache_dir);
    DyingDisk disk(calls);
    try {
      const ScopedFileSystem scope(disk);
      load();
      survived = !disk.died();
    } catch (const ResourceError&) {
    }
    EXPECT_EQ(load().train.fingerprint(), fingerprint);
    EXPECT_EQ(contents(), whole);
    expect_nothing_left();
  }
  EXPECT_TRUE(survived) << calls << " calls that write";
  EXPECT_GT(calls, 30);
}

class FullDisk : public ForwardingFileSystem {
 public:
  FullDisk() : ForwardingFileSystem(posix_file_system()) {}
  int statvfs(const std::string& path, struct ::statvfs& status) override {
    const int result = ForwardingFileSystem::statvfs(path, status);
    status.f_bavail = 0;
    return result;
  }
};

TEST_F(TokenCacheTest, ADiskWithoutRoomIsAResourceErrorBeforeAnythingIsWritten) {
  config.data = {write("a.json", alpaca_records(30))};
  FullDisk full;
  const ScopedFileSystem scope(full);
  try {
    load();
    FAIL() << "no error";
  } catch (const ResourceError& error) {
    EXPECT_THAT(error.what(), HasSubstr("--cache_dir"));
  }
  EXPECT_FALSE(path_exists(join_path(entry(), "building")));
}

TEST_F(TokenCacheTest, AnErrorInALaterChunkNamesItsLine) {
  std::string lines, text = text_of(5000);
  for (int i = 0; i < 20000; ++i) lines += "{\"text\":\"the cat walks in the garden\"}\n";
  EXPECT_THAT(error_of("a.jsonl", lines + "{\"text\":\"x\"\n"), HasSubstr("a.jsonl:20001:"));
  EXPECT_THAT(error_of("a.jsonl", lines + "{\"text\":7}\n"), HasSubstr("a.jsonl:20001:"));
  const auto newlines = std::count(text.begin(), text.end(), '\n');
  EXPECT_THAT(error_of("a.txt", text + "a\xC3(b"),
              testing::AllOf(HasSubstr(fmt::format("a.txt:{}:", newlines + 1)),
                             HasSubstr(fmt::format("at byte {}", text.size() + 1))));
  EXPECT_THAT(error_of("b.txt", text + "a\xE6\x9D"), HasSubstr("not UTF-8")) << "cut at the end";
  EXPECT_EQ(list_directory(config.cache_dir).size(), 4U) << "one entry a file";
  for (const std::string& name : list_directory(config.cache_dir)) {
    EXPECT_FALSE(path_exists(join_path(config.cache_dir, name + "/data")));
  }
}

}  // namespace
}  // namespace train_sft
