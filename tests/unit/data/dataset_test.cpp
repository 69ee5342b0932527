#include "train_sft/data/dataset.h"

#include <gmock/gmock.h>

#include <algorithm>
#include <set>

#include "data/split.h"
#include "train_sft/base/error.h"
#include "train_sft/base/rng.h"
#include "unit/data/data_fixture.h"

namespace train_sft {
namespace {

using testing::HasSubstr;

class DatasetTest : public DataFixture {
 protected:
  // Ids of record i's message pair.
  static std::string pair(const std::string& q, const std::string& a) {
    return "[{\"instruction\":\"" + q + "\",\"output\":\"" + a + "\"}]";
  }
};

std::set<uint64_t> ids_of(const Dataset& dataset) {
  return {dataset.ids.begin(), dataset.ids.end()};
}

TEST_F(DatasetTest, ValidationIsTheFractionRoundedUp) {
  config.data = {write("a.json", alpaca_records(203))};
  config.val_split = 0.05;  // 10.15
  const DataSplit split = load();
  EXPECT_EQ(split.validation.size(), 11U);
  EXPECT_EQ(split.train.size(), 192U);
  EXPECT_EQ(split.overlap, 0U);
}

TEST(SplitTest, FiveOfAHundredOfAlpacaIsTwoThousandSixHundredAndOne) {
  std::vector<uint64_t> hashes;
  for (uint64_t i = 0; i < 52002; ++i) hashes.push_back(mix64(i));
  const ValidationChoice choice(hashes.size(), 0.05, [&](const HashVisitor& visit) {
    for (const uint64_t hash : hashes) visit(hash);
  });
  EXPECT_EQ(std::count_if(hashes.begin(), hashes.end(),
                          [&](uint64_t hash) { return choice.contains(hash); }),
            2601);
  EXPECT_EQ(validation_count(20, 0.05), 1U);
  EXPECT_EQ(validation_count(60, 0.05), 3U);
}

TEST_F(DatasetTest, TokensDoNotDependOnThreads) {
  config.data = {write("a.json", alpaca_records(500))};
  config.threads = 1;
  const std::string one = load().train.fingerprint();
  config.threads = 5;
  EXPECT_EQ(load().train.fingerprint(), one);
}

TEST_F(DatasetTest, ValidationDoesNotDependOnOrderSeedOrFileCount) {
  config.val_split = 0.1;
  config.data = {write("a.json", alpaca_records(60)), write("b.json", alpaca_records(60, 60))};
  const auto hashes = [&] {
    const Dataset validation = load().validation;
    return std::set<uint64_t>(validation.content_hashes.begin(), validation.content_hashes.end());
  };
  const auto first = hashes();
  std::swap(config.data[0], config.data[1]);
  config.seed = 4;
  config.block_size = 32;
  EXPECT_EQ(hashes(), first);
  config.data = {write("c.json", alpaca_records(120))};
  EXPECT_EQ(hashes(), first);
}

TEST_F(DatasetTest, DuplicatesFallOnOneSide) {
  std::string lines;
  for (int i = 0; i < 100; ++i) {
    lines += fmt::format("{{\"prompt\":\"the cat {}\",\"completion\":\"a\"}}\n", i / 2);
  }
  config.data = {write("a.jsonl", lines)};
  config.val_split = 0.2;
  const DataSplit split = load();
  EXPECT_EQ(split.validation.size(), 20U);
  EXPECT_EQ(split.overlap, 0U);
  config.val_split = 0.0;
  config.val_data = config.data;
  EXPECT_EQ(load().overlap, 100U);
}

TEST_F(DatasetTest, TextValidatesOnItsLastCharacters) {
  std::string text;
  for (int i = 0; i < 300; ++i) text += "é the cat\n";  // 10 characters, 11 bytes a line
  config.data = {write("a.txt", text)};
  config.val_split = 0.1;
  const DataSplit split = load();
  const auto kept = static_cast<size_t>(0.9 * 3000);
  std::vector<int32_t> train = tokenizer.encode(text.substr(0, kept / 10 * 11));
  EXPECT_EQ(split.train.tokens.all(), train) << "a cut is not a document's end";
  std::vector<int32_t> validation = tokenizer.encode(text.substr(kept / 10 * 11));
  validation.push_back(tokenizer.eos_id());
  EXPECT_EQ(split.validation.tokens.all(), validation);
}

TEST_F(DatasetTest, ConversationsCanValidateOnTheLastRecords) {
  config.data = {write("a.json", alpaca_records(10))};
  config.val_split = 0.25;
  config.val_split_by = "tail";
  EXPECT_EQ(ids_of(load().validation), (std::set<uint64_t>{7, 8, 9}));
}

TEST_F(DatasetTest, OverlongIsTruncatedAndCounted) {
  config.data = {write("a.json", pair("the cat", std::string(400, 'z')))};
  config.block_size = 40;
  const Dataset train = load().train;
  EXPECT_EQ(train.tokens.size(), 40U);
  EXPECT_EQ(train.report.truncated, 1U);
  EXPECT_EQ(train.report.truncated_tokens + 40, train.report.length_percentiles[6]);
}

TEST_F(DatasetTest, ExactlyBlockSizeIsNotOverlong) {
  config.data = {write("a.json", pair("the cat", "walks"))};
  const auto length = static_cast<int64_t>(load().train.tokens.size());
  config.block_size = length;
  EXPECT_EQ(load().train.report.truncated, 0U);
  config.block_size = length - 1;
  EXPECT_EQ(load().train.report.truncated, 1U);
}

TEST_F(DatasetTest, OverlongIsDroppedSplitOrRefusedWhenAsked) {
  const std::string file = R"([{"instruction":"a","output":"b"},{"instruction":"a","output":")" +
                           std::string(300, 'z') + "\"}]";
  config.data = {write("a.json", file)};
  config.block_size = 50;
  config.overlong = "drop";
  EXPECT_EQ(load().train.size(), 1U);
  EXPECT_EQ(load().train.report.dropped.at("longer than block_size"), 1U);
  config.overlong = "error";
  EXPECT_THROW(load(), DataError);
  config.overlong = "split";
  const Dataset train = load().train;
  EXPECT_GT(train.report.split_pieces, 2U);
  for (uint64_t e = 0; e < train.size(); ++e)
    EXPECT_LE(train.offsets[e + 1] - train.offsets[e], 50U);
  config.overlong = "truncate";
  config.block_size = 4096;
  EXPECT_EQ(train.report.learned_tokens, load().train.report.learned_tokens)
      << "every token that whole examples learn, their pieces learn";
}

TEST_F(DatasetTest, TruncatedBeforeItsReplyIsDroppedWithTheReason) {
  config.data = {write("a.json", R"([{"instruction":")" + std::string(200, 'z') +
                                     R"(","output":"a"},{"instruction":"a","output":"b"}])")};
  config.block_size = 40;
  const Dataset train = load().train;
  EXPECT_EQ(train.size(), 1U);
  EXPECT_EQ(train.report.dropped.at("nothing to learn once truncated"), 1U);
}

TEST_F(DatasetTest, NothingLearnedAtAllIsAUsageErrorThatSaysWhy) {
  EXPECT_THAT(error_of("a.jsonl", R"({"messages":[{"role":"user","content":"hi"}]})"),
              testing::AllOf(HasSubstr("2 nothing is to be learned"),
                             HasSubstr("1 dropped: nothing to learn")));
}

TEST_F(DatasetTest, DataWeightsRepeatExamples) {
  const std::string file = write("a.json", alpaca_records(10));
  config.data = {file + "*2.5"};
  const Dataset train = load().train;
  EXPECT_EQ(train.size(), 25U);
  EXPECT_EQ(ids_of(train).size(), 25U) << "copies have ids of their own";
  std::map<uint64_t, int> times;
  for (const uint64_t id : train.ids) ++times[id % kCopyStride];
  for (const auto& [record, count] : times) EXPECT_GE(count, 2) << record;
  config.data = {file + "*0.3"};
  EXPECT_EQ(load().train.size(), 3U);
  EXPECT_EQ(load().train.report.dropped.at("left out by the data weight 0.3"), 7U);
  config.data = {file + "*0"};
  EXPECT_THROW(load(), UsageError);
}

TEST_F(DatasetTest, FingerprintFollowsTheTokensAndWhatIsLearned) {
  config.data = {write("a.json", alpaca_records(10))};
  const std::string first = load().train.fingerprint();
  EXPECT_EQ(load().train.fingerprint(), first);
  config.train_on = "all";
  EXPECT_NE(load().train.fingerprint(), first);
  config.train_on = "assistant";
  config.data = {write("a.json", alpaca_records(10, 1))};
  EXPECT_NE(load().train.fingerprint(), first);
}

TEST_F(DatasetTest, ReportSaysWhatHappened) {
  config.data = {write("a.json", alpaca_records(30))};
  config.block_size = 27;
  DataSplit split = load();
  const RowTable rows(split.train, Packing::none, config.block_size);
  add_rows(split.train.report, rows);
  const std::string text = describe(split.train.report);
  EXPECT_THAT(text, HasSubstr("30 examples (alpaca)"));
  EXPECT_THAT(text, HasSubstr(fmt::format("{} rows", rows.size())));
  EXPECT_THAT(text, HasSubstr("truncated to block_size"));
  EXPECT_EQ(to_json(split.train.report)["examples"], 30);
  EXPECT_EQ(to_json(split.train.report)["rows"], rows.size());
}

TEST_F(DatasetTest, TextAndConversationsMix) {
  config.data = {write("a.json", alpaca_records(3)),
                 write("b.jsonl", "{\"text\": \"the cat walks\"}\n")};
  const Dataset train = load().train;
  EXPECT_FALSE(train.is_text);
  EXPECT_EQ(train.size(), 4U);
  EXPECT_EQ(train.report.format, "mixed");
  EXPECT_EQ(train.tokens.back(), tokenizer.eos_id());
}

}  // namespace
}  // namespace train_sft
