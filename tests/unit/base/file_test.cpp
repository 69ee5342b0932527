#include "train_sft/base/file.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>
#include <cstring>

#include "train_sft/base/checksum.h"
#include "train_sft/base/error.h"
#include "train_sft/base/file_system.h"

namespace train_sft {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

class FileTest : public ::testing::Test {
 protected:
  void SetUp() override {
    std::string pattern = ::testing::TempDir() + "train_sft_file_XXXXXX";
    ASSERT_NE(::mkdtemp(pattern.data()), nullptr);
    directory_ = pattern;
  }
  void TearDown() override { remove_tree(directory_); }
  std::string path(const std::string& name) const { return join_path(directory_, name); }

  std::string directory_;
};

// Answers like a slow, interrupted disk: EINTR first, then three bytes at a time.
class DribblingFileSystem : public ForwardingFileSystem {
 public:
  DribblingFileSystem() : ForwardingFileSystem(posix_file_system()) {}
  ssize_t write(int fd, const void* bytes, size_t count) override {
    if (++calls_ % 2 == 1) return errno = EINTR, -1;
    return ForwardingFileSystem::write(fd, bytes, std::min<size_t>(count, 3));
  }
  ssize_t read(int fd, void* bytes, size_t count) override {
    if (++calls_ % 2 == 1) return errno = EINTR, -1;
    return ForwardingFileSystem::read(fd, bytes, std::min<size_t>(count, 3));
  }
  int open(const std::string& path, int flags, mode_t mode) override {
    if (++calls_ % 2 == 1) return errno = EINTR, -1;
    return ForwardingFileSystem::open(path, flags, mode);
  }

 private:
  int calls_ = 0;
};

// Fails the n-th call that changes the disk.
class FailingFileSystem : public ForwardingFileSystem {
 public:
  explicit FailingFileSystem(int n) : ForwardingFileSystem(posix_file_system()), left_(n) {}
  ssize_t write(int fd, const void* bytes, size_t count) override {
    return fails() ? -1 : ForwardingFileSystem::write(fd, bytes, count);
  }
  int fsync(int fd) override { return fails() ? -1 : ForwardingFileSystem::fsync(fd); }
  int rename(const std::string& from, const std::string& to) override {
    return fails() ? -1 : ForwardingFileSystem::rename(from, to);
  }
  bool reached() const { return left_ < 0; }

 private:
  bool fails() {
    errno = ENOSPC;
    return left_-- == 0;
  }
  int left_;
};

TEST_F(FileTest, WhatIsWrittenIsReadBack) {
  FileWriter writer(path("a"), FileWriter::Mode::truncate);
  const std::string large(3 << 20, 'x');
  writer.write("head ");
  writer.write(large);
  writer.write(" tail");
  EXPECT_EQ(writer.bytes_written(), large.size() + 10);
  writer.close();
  EXPECT_EQ(read_file(path("a")), "head " + large + " tail");
}

TEST_F(FileTest, AppendKeepsWhatWasThere) {
  write_file_atomically(path("a"), "one\n");
  FileWriter writer(path("a"), FileWriter::Mode::append);
  writer.write("two\n");
  writer.close();
  EXPECT_EQ(read_file(path("a")), "one\ntwo\n");
}

TEST_F(FileTest, ShortAndInterruptedCallsLoseNothing) {
  const std::string text = "The quick brown fox jumps over the lazy dog.";
  DribblingFileSystem dribbling;
  const ScopedFileSystem scope(dribbling);
  write_file_atomically(path("a"), text);
  EXPECT_EQ(read_file(path("a")), text);
}

TEST_F(FileTest, AtomicWriteIsOldOrNewWhereverItFails) {
  write_file_atomically(path("a"), "old");
  bool reached = true;
  int n = 0;
  for (; reached; ++n) {
    FailingFileSystem failing(n);
    {
      const ScopedFileSystem scope(failing);
      try {
        write_file_atomically(path("a"), "new");
        EXPECT_FALSE(failing.reached()) << "failure of call " << n << " went unnoticed";
      } catch (const ResourceError& error) {
        EXPECT_THAT(error.what(), HasSubstr(directory_));
        EXPECT_THAT(error.what(), HasSubstr("No space left"));
      }
    }
    reached = failing.reached();
    EXPECT_THAT(read_file(path("a")), ::testing::AnyOf("old", "new")) << "call " << n;
  }
  EXPECT_EQ(n, 5) << "write, fsync, rename, fsync of the folder, then success";
  EXPECT_EQ(read_file(path("a")), "new");
}

TEST_F(FileTest, MissingFileNamesPathAndReason) {
  try {
    read_file(path("nothing"));
    FAIL() << "read a file that is not there";
  } catch (const DataError& error) {
    EXPECT_THAT(error.what(), HasSubstr(path("nothing")));
    EXPECT_THAT(error.what(), HasSubstr("No such file"));
    EXPECT_EQ(error.code(), ExitCode::data);
  }
}

TEST_F(FileTest, DirectoryIsNotAFile) {
  EXPECT_THROW(read_file(directory_), DataError);
  EXPECT_THROW(MappedFile{directory_}, DataError);
}

TEST_F(FileTest, FileOverTheLimitIsRefused) {
  write_file_atomically(path("a"), "12345");
  EXPECT_EQ(read_file(path("a"), 5), "12345");
  EXPECT_THROW(read_file(path("a"), 4), DataError);
}

TEST_F(FileTest, MapHoldsTheBytesAndAnEmptyFileIsEmpty) {
  write_file_atomically(path("a"), "bytes");
  write_file_atomically(path("empty"), "");
  MappedFile map(path("a"));
  MappedFile moved(std::move(map));
  ASSERT_EQ(moved.bytes().size(), 5u);
  EXPECT_EQ(std::memcmp(moved.bytes().data(), "bytes", 5), 0);
  EXPECT_TRUE(MappedFile(path("empty")).bytes().empty());
}

TEST_F(FileTest, TreesAreMadeListedAndRemoved) {
  make_directories(path("x/y/z"));
  make_directories(path("x/y/z"));
  write_file_atomically(path("x/b"), "");
  write_file_atomically(path("x/a"), "");
  EXPECT_THAT(list_directory(path("x")), ElementsAre("a", "b", "y"));
  EXPECT_TRUE(is_directory(path("x/y")));
  EXPECT_FALSE(is_directory(path("x/a")));
  remove_tree(path("x"));
  EXPECT_FALSE(path_exists(path("x")));
  remove_tree(path("x"));
}

TEST_F(FileTest, RemovingATreeDoesNotFollowLinks) {
  make_directories(path("outside"));
  write_file_atomically(path("outside/kept"), "1");
  make_directories(path("tree"));
  replace_link(path("tree/link"), "../outside");
  remove_tree(path("tree"));
  EXPECT_TRUE(path_exists(path("outside/kept")));
}

TEST_F(FileTest, LinksAreReplacedAndRead) {
  replace_link(path("latest"), "step_1");
  replace_link(path("latest"), "step_2");
  EXPECT_EQ(read_link(path("latest")), "step_2");
  EXPECT_EQ(read_link(directory_), "");
}

TEST_F(FileTest, CommittedDirectoryTakesItsName) {
  make_directories(path("new.tmp"));
  write_file_atomically(path("new.tmp/f"), "1");
  commit_directory(path("new.tmp"), path("new"));
  EXPECT_FALSE(path_exists(path("new.tmp")));
  EXPECT_EQ(read_file(path("new/f")), "1");
}

TEST_F(FileTest, SecondLockNamesTheOwner) {
  {
    const DirectoryLock first(directory_);
    try {
      const DirectoryLock second(directory_);
      FAIL() << "two locks on one directory";
    } catch (const UsageError& error) {
      EXPECT_THAT(error.what(), HasSubstr("pid " + std::to_string(::getpid())));
    }
  }
  const DirectoryLock again(directory_);
}

TEST_F(FileTest, TruncationCutsTheTail) {
  write_file_atomically(path("a"), "12345");
  truncate_file(path("a"), 2);
  EXPECT_EQ(read_file(path("a")), "12");
  EXPECT_EQ(file_size(path("a")), 2u);
}

TEST(PathTest, JoinsAndSplits) {
  EXPECT_EQ(join_path("a", "b"), "a/b");
  EXPECT_EQ(join_path("a/", "b"), "a/b");
  EXPECT_EQ(join_path("", "b"), "b");
  EXPECT_EQ(join_path("a", "/b"), "/b");
  EXPECT_EQ(parent_path("a/b/"), "a");
  EXPECT_EQ(parent_path("/a"), "/");
  EXPECT_EQ(parent_path("a"), "");
  EXPECT_EQ(base_name("a/b/"), "b");
  EXPECT_EQ(base_name("/"), "/");
}

TEST_F(FileTest, ChecksumOfAFileIsThatOfItsBytes) {
  // xxhsum -H2 of the empty input.
  EXPECT_EQ(checksum_of(""), "99aa06d3014798d86001c324468d497f");
  write_file_atomically(path("a"), "some bytes");
  Checksum parts;
  parts.add("some ");
  parts.add("bytes");
  EXPECT_EQ(parts.hex(), checksum_of_file(path("a")));
  EXPECT_NE(parts.hex(), checksum_of("some bytez"));
}

TEST_F(FileTest, FreeSpaceOfAPathNotYetThere) {
  EXPECT_EQ(free_bytes_at(path("not/yet/there")) > 0, free_bytes_at(directory_) > 0);
  EXPECT_GT(free_bytes_at(directory_), 0u);
}

}  // namespace
}  // namespace train_sft
