// Whole runs on a disk that loses its power or fails: started again they end like the undisturbed
// one, bit for bit, and what can go on goes on.
#include <gmock/gmock.h>

#include "support/volatile_disk.h"
#include "train/checkpoint_files.h"
#include "train_sft/train/checkpoint.h"
#include "unit/train/training_fixture.h"

namespace train_sft {
namespace {

using Loss = VolatileDisk::Loss;
using Operation = VolatileDisk::Operation;

// What must be the same however a run was disturbed.
struct Outcome {
  std::string model, optimizer, best;
  std::vector<std::string> losses;
};

// Which part differs; "" when none does.
std::string difference(const Outcome& now, const Outcome& expected) {
  if (now.model != expected.model) return "weights";
  if (now.optimizer != expected.optimizer) return "moments";
  if (now.best != expected.best) return fmt::format("best: {}, not {}", now.best, expected.best);
  for (size_t i = 0; i < std::max(now.losses.size(), expected.losses.size()); ++i) {
    const auto line = [&](const Outcome& outcome) {
      return i < outcome.losses.size() ? outcome.losses[i] : "no line";
    };
    if (line(now) != line(expected))
      return fmt::format("metrics: {}, not {}", line(now), line(expected));
  }
  return "";
}

class BadDiskTest : public TrainingTest {
 protected:
  Settings settings() {
    Settings settings = tiny();
    set(settings, "save_interval", 3);
    set(settings, "dropout", 0.1);
    set(settings, "use_tensorboard", true);
    set(settings, "resume", "auto");
    return settings;
  }

  static void provide_data(VolatileDisk& disk, const std::string& text) {
    write_file_atomically("/data.txt", text);
    disk.restart(Loss::all_unsynced);
    disk.count_from_zero();
  }

  static Outcome outcome() {
    Outcome outcome;
    outcome.model = read_file("out/step_00000012/model.safetensors");
    outcome.optimizer = read_file("out/step_00000012/optimizer.safetensors");
    outcome.best = read_link("out/best_model");
    for (const Json& line : metrics("out"))
      outcome.losses.push_back(line["step"].dump() + " " + line["loss"].dump());
    return outcome;
  }

  // The undisturbed run, and how many operations it takes.
  Outcome undisturbed(int64_t& operations) {
    const Settings all = settings();
    const std::string text = read_file("data.txt");
    text_ = text;
    VolatileDisk disk;
    const ScopedFileSystem scope(disk);
    provide_data(disk, text);
    train(all);
    operations = disk.operations();
    return outcome();
  }

  std::string text_;
};

TEST_F(BadDiskTest, ARunWhosePowerGoesOutAnywhereEndsAsIfItHadNot) {
  int64_t operations = 0;
  const Outcome expected = undisturbed(operations);
  ASSERT_EQ(expected.losses.size(), 12u);
  ASSERT_GT(operations, 200);
  int cuts = 0;
  for (int64_t n = 0; n < operations; n += 7) {
    VolatileDisk disk;
    const ScopedFileSystem scope(disk);
    provide_data(disk, text_);
    // Twice: the second time while the first is being made up for.
    for (const int64_t cut : {n, operations / 3}) {
      disk.count_from_zero();
      disk.cut_power_before(cut);
      try {
        train(settings());
      } catch (const Error&) {
      }
      cuts += disk.power_is_out();
      disk.restart(n % 2 == 0 ? Loss::all_unsynced : Loss::some, static_cast<uint64_t>(n));
    }
    ASSERT_EQ(train(settings()).stopped_by, "max_iters");
    ASSERT_EQ(difference(outcome(), expected), "") << "cut before operation " << n;
  }
  EXPECT_GT(cuts, operations / 7);
  RecordProperty("power cuts", cuts);
}

TEST_F(BadDiskTest, ADiskThatIsFullForAWhileCostsNothing) {
  int64_t operations = 0;
  const Outcome expected = undisturbed(operations);
  Settings all = settings();
  set(all, "save_in_background", false);  // the same operations in the same order
  int warned = 0;
  for (int64_t n = 0; n < operations; n += 9) {
    VolatileDisk disk;
    const ScopedFileSystem scope(disk);
    provide_data(disk, text_);
    disk.fault = [&](const VolatileDisk::Call& call) {
      VolatileDisk::Fault fault;
      const bool full = call.number >= n && call.number < n + 25;
      const bool takes_space =
          call.operation == Operation::write || call.operation == Operation::create ||
          call.operation == Operation::mkdir || call.operation == Operation::symlink;
      if (full && takes_space) fault.error = ENOSPC;
      return fault;
    };
    try {
      EXPECT_EQ(train(all).stopped_by, "max_iters");
    } catch (const ResourceError& error) {  // while it starts, and at its last save
      ++warned;
      EXPECT_THAT(error.what(), ::testing::HasSubstr("No space left"));
      disk.fault = nullptr;
      train(all);
    }
    // The best step's own checkpoint may be among those that could not be written.
    Outcome now = outcome();
    EXPECT_EQ(verify_checkpoint("out/" + now.best), "");
    now.best = expected.best;
    ASSERT_EQ(difference(now, expected), "") << "full from operation " << n << " on";
  }
  EXPECT_LT(warned, operations / 9 / 2) << "most of a run goes on";
}

TEST_F(BadDiskTest, AFailedSaveIsTriedAgainAndTheLastOneMustSucceed) {
  int64_t operations = 0;
  const Outcome expected = undisturbed(operations);
  VolatileDisk disk;
  const ScopedFileSystem scope(disk);
  provide_data(disk, text_);
  bool full = true;
  disk.fault = [&](const VolatileDisk::Call& call) {
    VolatileDisk::Fault fault;
    if (full && call.path.find(".saving_") != std::string::npos) fault.error = ENOSPC;
    return fault;
  };
  const std::string said = message_of<ResourceError>(settings());
  EXPECT_THAT(said, ::testing::HasSubstr("No space left"));
  EXPECT_EQ(checkpoint_files::list_checkpoints("out").size(), 0u);
  for (const auto& name : list_directory("out")) EXPECT_FALSE(name.starts_with(".saving_")) << name;
  EXPECT_EQ(column("out", "step").size(), 12u) << "it trained to its end all the same";
  full = false;
  train(settings());
  EXPECT_EQ(difference(outcome(), expected), "");
}

TEST_F(BadDiskTest, TooLittleSpaceIsSaidBeforeAnythingIsWrittenAndTrainingGoesOn) {
  int64_t operations = 0;
  undisturbed(operations);
  VolatileDisk disk;
  const ScopedFileSystem scope(disk);
  provide_data(disk, text_);
  disk.free_bytes = 1000;
  Settings all = settings();
  set(all, "cache_dir", "none");  // which asks for its own
  int written = 0;
  disk.fault = [&](const VolatileDisk::Call& call) {
    written += call.path.find("step_") != std::string::npos;
    return VolatileDisk::Fault{};
  };
  EXPECT_THAT(message_of<ResourceError>(all), ::testing::HasSubstr("a checkpoint needs"));
  EXPECT_EQ(written, 0);
  EXPECT_EQ(column("out", "step").size(), 12u);
}

}  // namespace
}  // namespace train_sft
