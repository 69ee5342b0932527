// Bits change and files end early: detected in every file of a checkpoint, named, and the
// checkpoint before is taken.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "support/volatile_disk.h"
#include "train_sft/base/error.h"
#include "train_sft/base/file.h"
#include "train_sft/base/json.h"
#include "train_sft/base/log.h"
#include "unit/train/trained_model.h"

namespace train_sft {
namespace {

using ::testing::HasSubstr;

class DamagedCheckpointTest : public ::testing::Test {
 protected:
  DamagedCheckpointTest() : scope_(disk_), trained_(small_gpt2()) {
    log::set_level(log::Level::error);
    good_ = trained_.save("/run", 1);
    bad_ = trained_.save("/run", 2);
  }
  ~DamagedCheckpointTest() override { log::set_level(log::Level::info); }

  static void overwrite(const std::string& path, std::string_view bytes) {
    FileWriter file(path, FileWriter::Mode::truncate);
    file.write(bytes);
    file.close();
  }

  // Every damage is seen by whoever reads the checkpoint.
  void expect_detected(const std::string& path, const std::string& damage) {
    const std::string fault = verify_checkpoint(bad_);
    ASSERT_THAT(fault, HasSubstr(bad_)) << base_name(path) << " " << damage;
    if (base_name(path) != "manifest.json") {
      ASSERT_THAT(fault, HasSubstr(base_name(path))) << damage;
    }
    ASSERT_EQ(newest_valid_checkpoint("/run"), good_) << base_name(path) << " " << damage;
    ++detected_;
  }

  VolatileDisk disk_;
  ScopedFileSystem scope_;
  Trained trained_;
  std::string good_, bad_;
  int detected_ = 0;
};

TEST_F(DamagedCheckpointTest, TruncationAtEvery64thByteOfEveryFile) {
  ASSERT_EQ(newest_valid_checkpoint("/run"), bad_);
  for (const auto& name : list_directory(bad_)) {
    const std::string path = join_path(bad_, name);
    const std::string whole = read_file(path);
    for (size_t length = 0; length + 1 < whole.size(); length += 64) {
      overwrite(path, std::string_view(whole).substr(0, length));
      ASSERT_NO_FATAL_FAILURE(expect_detected(path, fmt::format("cut to {} bytes", length)));
    }
    overwrite(path, whole);
  }
  EXPECT_EQ(verify_checkpoint(bad_), "");
  EXPECT_GT(detected_, 500);
}

TEST_F(DamagedCheckpointTest, AFlippedBitAnywhereInEveryFile) {
  for (const auto& name : list_directory(bad_)) {
    const std::string path = join_path(bad_, name);
    std::string bytes = read_file(path);
    // Every byte of the small files and of the large ones' headers, then every 61st.
    for (size_t place = 0; place + 1 < bytes.size(); place += place < 2048 ? 1 : 61) {
      const char before = bytes[place];
      bytes[place] = static_cast<char>(before ^ (1 << (place % 7)));
      overwrite(path, bytes);
      ASSERT_NO_FATAL_FAILURE(expect_detected(path, fmt::format("bit of byte {} flipped", place)));
      bytes[place] = before;
    }
    overwrite(path, bytes);
  }
  EXPECT_EQ(verify_checkpoint(bad_), "");
  EXPECT_GT(detected_, 2000);
}

TEST_F(DamagedCheckpointTest, EmptyAndMissingFiles) {
  for (const auto& name : list_directory(bad_)) {
    const std::string path = join_path(bad_, name);
    const std::string whole = read_file(path);
    overwrite(path, "");
    ASSERT_NO_FATAL_FAILURE(expect_detected(path, "emptied"));
    remove_tree(path);
    ASSERT_NO_FATAL_FAILURE(expect_detected(path, "removed"));
    overwrite(path, whole);
  }
}

TEST_F(DamagedCheckpointTest, LoadingRefusesByName) {
  const std::string path = join_path(bad_, "optimizer.safetensors");
  std::string bytes = read_file(path);
  bytes.back() ^= 1;
  overwrite(path, bytes);
  try {
    load_training(bad_, trained_.parameters, trained_.optimizer);
    FAIL() << "damaged moments were loaded";
  } catch (const CheckpointError& error) {
    EXPECT_THAT(error.what(), HasSubstr("optimizer.safetensors"));
  }
}

TEST_F(DamagedCheckpointTest, AManifestThatLeadsOutOfItsDirectoryIsRefused) {
  const std::string path = join_path(bad_, "manifest.json");
  Json manifest = Json::parse(read_file(path));
  for (const char* name : {"../step_00000001/config.json", "/run/step_00000001/config.json", "..",
                           "", "a/../config.json"}) {
    Json changed = manifest;
    changed["files"][name] = manifest["files"]["config.json"];
    overwrite(path, changed.dump());
    EXPECT_THAT(verify_checkpoint(bad_), HasSubstr("not a file's name")) << name;
  }
}

}  // namespace
}  // namespace train_sft
