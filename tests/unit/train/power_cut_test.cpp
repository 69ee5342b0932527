// A checkpoint is whole or not there: on a disk that forgets what was not synced, with the power
// going out before any operation of a save, and with any operation failing.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <set>

#include "support/volatile_disk.h"
#include "train/checkpoint_files.h"
#include "train_sft/base/error.h"
#include "train_sft/base/file.h"
#include "train_sft/base/log.h"
#include "unit/train/trained_model.h"

namespace train_sft {
namespace {

using Operation = VolatileDisk::Operation;
using Loss = VolatileDisk::Loss;
namespace files = checkpoint_files;

constexpr const char* kRun = "/runs/a";

class PowerCutTest : public ::testing::Test {
 protected:
  PowerCutTest() : trained_(small_gpt2()) { log::set_level(log::Level::error); }
  ~PowerCutTest() override { log::set_level(log::Level::info); }

  void save(int64_t step, bool is_best = true) {
    trained_.save(kRun, step, is_best);
    apply_retention(kRun, 1, 1);
  }

  // A disk on which step 1 was saved in peace.
  void prepare(VolatileDisk& disk) {
    save(1);
    disk.restart(Loss::all_unsynced);
    disk.count_from_zero();
  }

  int64_t operations_of_a_save() {
    VolatileDisk disk;
    const ScopedFileSystem scope(disk);
    prepare(disk);
    save(2);
    return disk.operations();
  }

  // What is wrong with a run directory after a save of step 2; "" when nothing is.
  std::string complaint(bool save_returned) {
    const std::string newest = base_name(newest_valid_checkpoint(kRun));
    if (newest.empty()) return "no valid checkpoint is left";
    if (save_returned && newest != "step_00000002") return "a finished save is gone: " + newest;
    for (const char* link : {files::kLatest, files::kBest, files::kBestPt}) {
      const std::string target = files::link_target(kRun, link);
      if (save_returned && target != "step_00000002")
        return std::string(link) + " points at '" + target + "' after a finished save";
      const std::string fault = verify_checkpoint(join_path(kRun, target));
      if (!fault.empty()) return std::string(link) + ": " + fault;
    }
    return "";
  }

  // The next start goes on as after any other stop.
  std::string complaint_about_the_next_start() {
    remove_leftovers(kRun);
    save(3);
    for (const auto& name : list_directory(kRun))
      if (name.starts_with(".saving") || name.starts_with(".removing")) return name + " stays";
    return verify_checkpoint(join_path(kRun, "step_00000003"));
  }

  // The first thing that is wrong when the power goes out before operation n of a save.
  std::string cut_before(
      int64_t n, Loss loss, uint64_t seed,
      const std::function<VolatileDisk::Fault(const VolatileDisk::Call&)>& fault = nullptr) {
    VolatileDisk disk;
    const ScopedFileSystem scope(disk);
    prepare(disk);
    disk.fault = fault;
    disk.cut_power_before(n);
    bool returned = true;
    try {
      save(2);
    } catch (const Error&) {
      returned = false;
    }
    disk.fault = nullptr;
    disk.restart(loss, seed);
    const std::string wrong = complaint(returned);
    return wrong.empty() ? complaint_about_the_next_start() : wrong;
  }

  Trained trained_;
};

TEST_F(PowerCutTest, BeforeAnyOperationOfASaveTheOldOrTheNewCheckpointIsWhole) {
  const int64_t operations = operations_of_a_save();
  EXPECT_GT(operations, 40);
  for (int64_t n = 0; n <= operations; ++n) {
    ASSERT_EQ(cut_before(n, Loss::all_unsynced, 0), "") << "cut before operation " << n;
    for (uint64_t seed = 0; seed < 8; ++seed)
      ASSERT_EQ(cut_before(n, Loss::some, 1000 * static_cast<uint64_t>(n) + seed), "")
          << "cut before operation " << n << ", seed " << seed;
  }
}

// The test above would be worth nothing if it did not see a missing fsync. A file that is synced
// twice (under its temporary name and its own) must be lied about each time.
TEST_F(PowerCutTest, ALyingFsyncOfAnyFileIsDetected) {
  const int64_t operations = operations_of_a_save();
  const auto plain = [](const std::string& path) {
    return path.ends_with(".tmp") ? path.substr(0, path.size() - 4) : path;
  };
  std::set<std::string> synced;
  const auto note = [&](const VolatileDisk::Call& call) {
    if (call.operation == Operation::fsync) synced.insert(plain(call.path));
    return VolatileDisk::Fault{};
  };
  ASSERT_EQ(cut_before(operations, Loss::all_unsynced, 0, note), "");
  int detected = 0;
  for (const std::string& liar : synced) {
    // Thinning rewrites the manifest of the checkpoint before, which is no longer needed then.
    if (liar.starts_with("/runs/a/step_00000001")) continue;
    std::string found;
    for (int64_t n = operations; n > 0 && found.empty(); --n)
      found = cut_before(n, Loss::all_unsynced, 0, [&](const VolatileDisk::Call& call) {
        VolatileDisk::Fault fault;
        fault.does_nothing = call.operation == Operation::fsync && plain(call.path) == liar;
        return fault;
      });
    EXPECT_FALSE(found.empty()) << liar;
    detected += !found.empty();
  }
  EXPECT_GE(detected, 10) << "files of a checkpoint, their folder, the run's folder";
}

TEST_F(PowerCutTest, TheFirstSaveOfANewRunSurvivesItsReturn) {
  VolatileDisk disk;
  const ScopedFileSystem scope(disk);
  save(1);
  disk.restart(Loss::all_unsynced);
  EXPECT_EQ(newest_valid_checkpoint(kRun), join_path(kRun, "step_00000001"));
}

class FaultyDisk : public PowerCutTest, public ::testing::WithParamInterface<int> {};

TEST_P(FaultyDisk, AnErrorOfAnyOperationLeavesTheOldOrTheNewCheckpoint) {
  const int64_t operations = operations_of_a_save();
  int failures = 0;
  for (int64_t n = 0; n < operations; ++n)
    for (const bool once : {true, false}) {
      VolatileDisk disk;
      const ScopedFileSystem scope(disk);
      prepare(disk);
      disk.fault = [&](const VolatileDisk::Call& call) {
        VolatileDisk::Fault fault;
        if (call.number == n || (!once && call.number > n)) fault.error = GetParam();
        return fault;
      };
      bool returned = true;
      try {
        save(2);
      } catch (const Error& error) {
        returned = false;
        ++failures;
        EXPECT_EQ(error.code(), ExitCode::resource) << error.what();
        EXPECT_THAT(error.what(), ::testing::HasSubstr(std::strerror(GetParam())));
      }
      disk.fault = nullptr;
      ASSERT_EQ(complaint(returned), "") << "operation " << n;
      ASSERT_EQ(complaint_about_the_next_start(), "") << "operation " << n;
    }
  EXPECT_GT(failures, operations) << "nearly every failure is reported";
}

INSTANTIATE_TEST_SUITE_P(Errors, FaultyDisk, ::testing::Values(ENOSPC, EIO, EROFS));

TEST_F(PowerCutTest, InterruptedAndShortCallsGoUnnoticed) {
  const int64_t operations = operations_of_a_save();
  for (int64_t n = 0; n < operations; ++n) {
    VolatileDisk disk;
    const ScopedFileSystem scope(disk);
    prepare(disk);
    disk.fault = [&](const VolatileDisk::Call& call) {
      VolatileDisk::Fault fault;
      if (call.number == n) fault.error = EINTR;
      fault.is_short = call.number == n + 1;
      return fault;
    };
    ASSERT_NO_THROW(save(2)) << "operation " << n;
    ASSERT_EQ(complaint(true), "") << "operation " << n;
  }
}

}  // namespace
}  // namespace train_sft
