#include "train_sft/base/log.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <csignal>

#include "train_sft/base/file.h"
#include "train_sft/base/memory.h"
#include "train_sft/base/progress.h"
#include "train_sft/base/signals.h"

namespace train_sft {
namespace {

using ::testing::HasSubstr;
using ::testing::MatchesRegex;
using ::testing::Not;

TEST(LogTest, FileGetsEachLineAtOnceWithATimestamp) {
  const std::string path = ::testing::TempDir() + "train_sft_log_test.log";
  remove_tree(path);
  log::set_file(path);
  ::testing::internal::CaptureStderr();
  log::info("loss {:.2f}", 2.5);
  log::debug("for the file alone");
  log::warning("careful");
  const std::string terminal = ::testing::internal::GetCapturedStderr();
  const std::string file = read_file(path);  // not closed yet: tail -f would show it
  log::set_file("");
  log::info("after");
  EXPECT_EQ(terminal, "loss 2.50\nwarning: careful\n");
  EXPECT_THAT(file, MatchesRegex("....-..-.. ..:..:.. loss 2.50\n"
                                 "....-..-.. ..:..:.. for the file alone\n"
                                 "....-..-.. ..:..:.. warning: careful\n"));
  EXPECT_EQ(read_file(path), file);
  remove_tree(path);
}

TEST(LogTest, LevelHidesWhatIsBelowItOnTheTerminal) {
  ::testing::internal::CaptureStderr();
  log::set_level(log::Level::error);
  log::info("hidden");
  log::error("shown");
  log::set_level(log::Level::info);
  EXPECT_EQ(::testing::internal::GetCapturedStderr(), "error: shown\n");
}

TEST(ProgressTest, NothingIsDrawnWhenStderrIsNoTerminal) {
  ::testing::internal::CaptureStderr();
  {
    ProgressBar bar("reading", 10);
    bar.update(5);
    bar.update(10);
  }
  EXPECT_EQ(::testing::internal::GetCapturedStderr(), "");
}

TEST(HumanTest, NumbersReadWell) {
  EXPECT_EQ(human_bytes(0), "0 bytes");
  EXPECT_EQ(human_bytes(1.2e9), "1.2 GB");
  EXPECT_EQ(human_bytes(999.9e6), "1.0 GB");
  EXPECT_EQ(human_bytes(123.4e6), "123 MB");
  EXPECT_EQ(human_count(12645675), "12.6M");
  EXPECT_EQ(human_count(772), "772");
  EXPECT_EQ(human_duration(7500), "2 h 05 min");
  EXPECT_EQ(human_duration(65), "1 min 05 s");
  EXPECT_EQ(human_duration(0.25), "250 ms");
  EXPECT_EQ(human_duration(7199.9), "2 h 00 min");
  EXPECT_EQ(human_duration(3 * 86400.0), "3 d 00 h");
}

TEST(MemoryTest, NumbersAreOfThisProcess) {
  const uint64_t before = resident_bytes();
  std::string block(64 << 20, 'x');
  const uint64_t after = resident_bytes();
  EXPECT_GE(after, before + (60 << 20));
  EXPECT_GE(peak_resident_bytes(), after);
  EXPECT_GT(available_memory_bytes(), 1u << 20);
  EXPECT_EQ(block.back(), 'x');
}

TEST(SignalsTest, StopIsSeenAndCarriesItsCode) {
  signals::install();
  EXPECT_FALSE(signals::stop_requested());
  EXPECT_NO_THROW(signals::throw_if_stopped());
  std::raise(SIGTERM);
  EXPECT_TRUE(signals::stop_requested());
  EXPECT_EQ(signals::stop_code(), ExitCode::terminated);
  EXPECT_THROW(signals::throw_if_stopped(), Error);
  signals::clear_stop();
  std::raise(SIGINT);
  EXPECT_EQ(signals::stop_code(), ExitCode::interrupted);
  signals::clear_stop();
  EXPECT_EQ(signals::stop_code(), ExitCode::ok);
}

TEST(SignalsTest, EachSaveRequestIsTakenOnce) {
  signals::install();
  std::raise(SIGUSR1);
  EXPECT_TRUE(signals::take_save_request());
  EXPECT_FALSE(signals::take_save_request());
}

TEST(SignalsTest, SecondInterruptEndsTheProgramAtOnce) {
  EXPECT_EXIT(
      {
        signals::install();
        std::raise(SIGINT);
        std::raise(SIGINT);
      },
      ::testing::KilledBySignal(SIGINT), "");
}

}  // namespace
}  // namespace train_sft
