#include "train_sft/base/disk_wait.h"

#include <gmock/gmock.h>

#include <sstream>
#include <thread>

#include "support/temporary_directory.h"
#include "train_sft/base/file.h"
#include "train_sft/base/file_system.h"
#include "train_sft/base/log.h"

namespace train_sft {
namespace {

using std::chrono::milliseconds;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

// A disk whose syncs take their time.
class SlowDisk final : public ForwardingFileSystem {
 public:
  explicit SlowDisk(milliseconds takes)
      : ForwardingFileSystem(posix_file_system()), takes_(takes) {}
  int fsync(int) override {
    std::this_thread::sleep_for(takes_);
    during = disk_wait::overdue();
    return 0;
  }
  std::string during;  // what was overdue at the end of the last wait

 private:
  milliseconds takes_;
};

class DiskWaitTest : public ::testing::Test {
 protected:
  DiskWaitTest() {
    disk_wait::set_patience(milliseconds(100));
    log::set_file(log_);
  }
  ~DiskWaitTest() override {
    log::set_file("");
    disk_wait::set_patience(std::chrono::seconds(30));
  }

  std::string sync_on(SlowDisk& disk) {
    const ScopedFileSystem in_force(disk);
    const std::string path = join_path(directory_.path(), "model.safetensors");
    FileWriter file(path, FileWriter::Mode::truncate);
    file.write("weights");
    file.sync();
    return path;
  }
  std::vector<std::string> said() const {
    std::vector<std::string> lines;
    std::istringstream text(read_file(log_));
    for (std::string line; std::getline(text, line);) lines.push_back(line);
    return lines;
  }

  TemporaryDirectory directory_;
  std::string log_ = join_path(directory_.path(), "training.log");
};

TEST_F(DiskWaitTest, ADiskThatAnswersIsNotSpokenOf) {
  SlowDisk disk(milliseconds(1));
  sync_on(disk);
  EXPECT_THAT(disk.during, IsEmpty());
  EXPECT_THAT(said(), IsEmpty());
}

TEST_F(DiskWaitTest, AFileThatIsWaitedForIsNamedWithTheTimeUntilItIsThere) {
  SlowDisk disk(milliseconds(1000));
  const std::string path = sync_on(disk);
  EXPECT_THAT(disk.during, HasSubstr("fsync of " + path + " since 20"));
  EXPECT_THAT(disk_wait::overdue(), IsEmpty());
  const std::vector<std::string> lines = said();
  // After 0.1, 0.2, 0.4 and 0.8 s, less what a busy machine oversleeps.
  ASSERT_GE(lines.size(), 3U);
  EXPECT_LE(lines.size(), 5U);
  for (size_t i = 0; i + 1 < lines.size(); ++i)
    EXPECT_THAT(lines[i], HasSubstr("warning: the disk does not answer: " + disk.during));
  EXPECT_THAT(lines.back(), HasSubstr("the disk answers again: fsync of " + path + " took "));
}

}  // namespace
}  // namespace train_sft
