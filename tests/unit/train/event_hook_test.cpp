#include "train/event_hook.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <chrono>
#include <sstream>

#include "train/histograms.h"
#include "unit/train/training_fixture.h"

namespace train_sft {
namespace {

using EventHookTest = TrainingTest;

std::vector<Json> events_in(const std::string& path) {
  std::vector<Json> events;
  std::istringstream lines(read_file(path));
  for (std::string line; std::getline(lines, line);) events.push_back(Json::parse(line));
  return events;
}

std::vector<std::string> names_in(const std::string& path) {
  std::vector<std::string> names;
  for (const Json& event : events_in(path)) names.push_back(event["event"].get<std::string>());
  return names;
}

TEST_F(EventHookTest, TheEventIsOnStdinAndInTheEnvironment) {
  const Json event = {{"event", "sign"}, {"text", "a 'quoted' $(touch owned) \"line\"\n"}};
  {
    EventHook hook("cat > stdin.json; printenv TRAIN_SFT_EVENT > variable.json");
    hook.send(event);
  }
  EXPECT_EQ(events_in("stdin.json"), std::vector<Json>{event});
  EXPECT_EQ(events_in("variable.json"), std::vector<Json>{event});
  EXPECT_FALSE(path_exists("owned"));
}

TEST_F(EventHookTest, NeitherAFailingNorASlowNorADeafCommandHoldsTrainingUp) {
  for (const char* command :
       {"exit 3", "kill -9 $$", "exec <&-; sleep 0.2", "no_such_command_at_all"}) {
    EventHook hook(command);
    const auto begin = std::chrono::steady_clock::now();
    for (int i = 0; i < 3; ++i)
      hook.send({{"event", "checkpoint"}, {"more", std::string(50000, 'x')}});
    EXPECT_LT(std::chrono::steady_clock::now() - begin, std::chrono::seconds(5)) << command;
  }
}

TEST_F(EventHookTest, ARunTellsItsCheckpointsAndItsEnd) {
  Settings settings = tiny();
  set(settings, "on_event", "flock events.lock sh -c 'cat >> events.jsonl'");
  train(settings);
  const auto names = names_in("events.jsonl");
  EXPECT_EQ(std::count(names.begin(), names.end(), "finished"), 1);
  EXPECT_GE(std::count(names.begin(), names.end(), "checkpoint"), 1);
  for (const Json& event : events_in("events.jsonl")) {
    EXPECT_EQ(event["out_dir"], "out");
    if (event["event"] == "checkpoint") {
      EXPECT_TRUE(path_exists(join_path(event["checkpoint"].get<std::string>(), "manifest.json")));
    }
    if (event["event"] == "finished") {
      EXPECT_EQ(event["stopped_by"], "max_iters");
    }
  }
}

TEST_F(EventHookTest, EarlyStopIsAnEventOfItsOwn) {
  Settings settings = tiny();
  set(settings, "early_stop_patience", 2);
  set(settings, "min_delta", 100.0);  // nothing is gain enough
  set(settings, "max_iters", 40);
  set(settings, "on_event", "cat >> events.jsonl");
  const TrainingResult result = train(settings);
  EXPECT_EQ(result.stopped_by, "early_stop");
  EXPECT_EQ(result.summary["step"], 12);  // evaluations at 4 (the best), 8, 12
  EXPECT_THAT(names_in("events.jsonl"), ::testing::Contains("early_stop"));
}

TEST_F(EventHookTest, ACheckpointsSettingsRunNoCommand) {
  Settings settings = tiny();
  set(settings, "on_event", "touch ran");
  train(settings);
  ASSERT_TRUE(path_exists("ran"));
  std::filesystem::remove("ran");
  Settings again;
  set(again, "resume", "auto");
  set(again, "out_dir", "out");
  set(again, "extend_steps", 16);
  train(again);
  EXPECT_FALSE(path_exists("ran"));
  EXPECT_EQ(Json::parse(read_file("out/config.json"))["on_event"], "");
}

TEST_F(EventHookTest, ACommandInAFileIsRefused) {
  Settings settings = tiny();
  set(settings, "on_event", "touch ran", "train_sft.json");
  EXPECT_THROW(validate(settings), UsageError);
  Settings said = tiny();
  set(said, "on_event", "touch ran");
  EXPECT_NO_THROW(validate(said));
}

TEST(HistogramTest, CountsEveryFiniteValueOnce) {
  const std::vector<float> values = {0, 1, 2, 3, 4, NAN, INFINITY, 4};
  const Histogram histogram = histogram_of(values, 2);
  EXPECT_EQ(histogram.count, 6u);
  EXPECT_DOUBLE_EQ(histogram.min, 0);
  EXPECT_DOUBLE_EQ(histogram.max, 8);
  EXPECT_DOUBLE_EQ(histogram.sum, 28);
  EXPECT_DOUBLE_EQ(histogram.sum_squares, 4 + 16 + 36 + 64 + 64);
  EXPECT_EQ(histogram.limits.size(), histogram.counts.size());
  EXPECT_DOUBLE_EQ(histogram.limits.back(), 8);
  uint64_t total = 0;
  for (const uint64_t count : histogram.counts) total += count;
  EXPECT_EQ(total, 6u);
  EXPECT_EQ(histogram.counts.back(), 2u);
  EXPECT_EQ(histogram_of(std::vector<float>{3, 3}, 1).counts, std::vector<uint64_t>{2});
  EXPECT_EQ(histogram_of({}, 1).count, 0u);
}

using SamplePromptsTest = TrainingTest;

TEST_F(SamplePromptsTest, AFileHoldsAPromptALine) {
  std::ofstream("prompts.txt") << "the cat\r\n\na mat\n";
  Settings settings = tiny();
  set(settings, "sample_prompts", {"@prompts.txt", "sat"});
  set(settings, "sample_interval", 12);
  train(settings);
  std::vector<std::string> prompts;
  for (const Json& line : events_in("out/samples.jsonl"))
    prompts.push_back(line["prompt"].get<std::string>());
  EXPECT_EQ(prompts, (std::vector<std::string>{"the cat", "a mat", "sat"}));
  set(settings, "sample_prompts", {"@missing.txt"});
  set(settings, "out_dir", "other");
  EXPECT_THAT(message_of<DataError>(settings), ::testing::HasSubstr("missing.txt"));
}

}  // namespace
}  // namespace train_sft
