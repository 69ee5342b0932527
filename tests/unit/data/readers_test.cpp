#include <gmock/gmock.h>

#include "data/field_map.h"
#include "data/records.h"
#include "train_sft/base/error.h"
#include "unit/data/data_fixture.h"

namespace train_sft {
namespace {

using testing::AllOf;
using testing::HasSubstr;

class ReadersTest : public DataFixture {};

TEST_F(ReadersTest, FormatsAreDetectedByTheirFields) {
  const std::pair<const char*, const char*> rows[] = {
      {R"([{"instruction":"a","output":"b"}])", "alpaca"},
      {R"([{"prompt":"a","completion":"b"}])", "prompt_completion"},
      {R"([{"messages":[{"role":"user","content":"a"}]}])", "messages"},
      {R"([{"conversations":[{"from":"human","value":"a"}]}])", "sharegpt"},
      {R"([{"text":"a"}])", "text"}};
  for (const auto& [json, format] : rows)
    EXPECT_EQ(detect_in_text(json, "a.json", FieldMap()), format);
  config.data = {write("a.txt", "[{}] is what this text says.")};
  EXPECT_EQ(load().train.report.format, "text");
}

TEST_F(ReadersTest, EachFormatGivesTheSameExample) {
  const std::pair<const char*, const char*> files[] = {
      {"a.json", R"([{"instruction":"hi","input":"","output":"ho"}])"},
      {"b.jsonl", "{\"prompt\":\"hi\",\"completion\":\"ho\"}\n\n"},
      {"c.jsonl",
       R"({"messages":[{"role":"user","content":"hi"},{"role":"assistant","content":"ho"}]})"},
      {"d.jsonl",
       R"({"messages":[{"role":"user","content":[{"type":"text","text":"h"},{"type":"text","value":"i"}]},{"role":"assistant","content":"ho"}]})"},
      {"e.json",
       R"([{"conversations":[{"from":"human","value":"hi"},{"from":"gpt","value":"ho"}]}])"},
      {"f.json", "{\n\"prompt\": \"hi\",\n\"completion\": \"ho\"\n}\n"},
      {"g.json", "\xEF\xBB\xBF[\r\n{\"instruction\":\"hi\",\"output\":\"ho\"}\r\n]\r\n"}};
  const auto chat = chat_template("chatml");
  Message user, reply;
  user.content = "hi";
  reply.role = Role::assistant;
  reply.content = "ho";
  const auto expected = chat->render(tokenizer, {{user, reply}}, TrainOn::assistant);
  for (const auto& [name, json] : files) {
    config.data = {write(name, json)};
    const Dataset train = load().train;
    EXPECT_EQ(train.tokens.all(), expected.ids) << name;
    EXPECT_EQ(train.weights.all(), expected.weights) << name;
  }
}

TEST_F(ReadersTest, SystemHistoryInputAndWeightsAreKept) {
  config.data = {write("a.json", R"([{"system":"brief","history":[["q1","a1"]],"instruction":"q2",
      "input":"in","output":"a2"}])")};
  const std::string text = tokenizer.decode(load().train.tokens.all());
  EXPECT_EQ(text, "system\nbrief\nuser\nq1\nassistant\na1\nuser\nq2\nin\nassistant\na2");
  config.data = {write(
      "b.jsonl",
      R"({"messages":[{"role":"user","content":"q"},{"role":"assistant","content":"a","train":false},{"role":"user","content":"q"},{"role":"assistant","content":"a","loss_weight":0.5}]})")};
  const Dataset train = load().train;
  double sum = 0;
  for (const float w : train.weights.all()) sum += w;
  EXPECT_EQ(sum, 0.5 * static_cast<double>(tokenizer.encode("a").size() + 1));
}

TEST_F(ReadersTest, DataVarsFillPlaceholders) {
  config.data_vars = {"name=Ada", "author=us"};
  config.data = {
      write("a.json",
            R"([{"instruction":"who {{ name }}?","output":"{{name}} by {{author}} {{other}}"}])")};
  EXPECT_EQ(tokenizer.decode(load().train.tokens.all()),
            "user\nwho Ada?\nassistant\nAda by us {{other}}");
  config.data_vars = {"name"};
  EXPECT_THROW(load(), UsageError);
}

TEST_F(ReadersTest, BadFilesNameFileLineAndField) {
  EXPECT_THAT(error_of("a.json", "[\n{\"instruction\": \"x\",\n \"output\": }]"),
              AllOf(HasSubstr("3 "), HasSubstr("a.json:3"), HasSubstr("malformed JSON")));
  EXPECT_THAT(error_of("a.jsonl", "{\"text\": \"x\"}\n{\"text\": \"y\"\n{\"text\":\"z\"}\n"),
              AllOf(HasSubstr("a.jsonl:2"), HasSubstr("malformed JSON")));
  EXPECT_THAT(error_of("a.json",
                       "[{\"instruction\": \"x\", \"output\": \"y\"},\n{\"instruction\": \"z\"}]"),
              AllOf(HasSubstr("a.json:2"), HasSubstr("'output'")));
  EXPECT_THAT(error_of("a.json", R"([{"instruction": 7, "output": "y"}])"),
              AllOf(HasSubstr("'instruction'"), HasSubstr("number")));
  EXPECT_THAT(error_of("a.json", "[\n{\"instruction\": \"x\", \"output\": \"y\"},\n{\"instr"),
              AllOf(HasSubstr("a.json:3"), HasSubstr("cut short")));
  EXPECT_THAT(error_of("a.json", "[{\"text\": \"x\"}"), HasSubstr("cut short"));
  EXPECT_THAT(error_of("a.json", "[{\"text\": \"x\"}] []"), HasSubstr("after the array"));
  EXPECT_THAT(error_of("a.json", R"([{"foo": 1, "bar": 2}])"), HasSubstr("foo, bar"));
  EXPECT_THAT(error_of("a.jsonl", R"({"messages":[{"role":"judge","content":"x"}]})"),
              HasSubstr("'judge'"));
  EXPECT_THAT(error_of("a.jsonl", R"({"messages":[{"role":"user","content":[{"type":"image"}]}]})"),
              HasSubstr("'image'"));
  EXPECT_THAT(error_of("a.json", "[]"), HasSubstr("no records"));
  EXPECT_THAT(error_of("a.json", ""), AllOf(HasSubstr("3 "), HasSubstr("empty")));
  EXPECT_THAT(error_of("a.txt", " \n"), HasSubstr("empty"));
  EXPECT_THAT(error_of("a.txt", "abc\nd\xFFz"),
              AllOf(HasSubstr("a.txt:2"), HasSubstr("byte 5"), HasSubstr("0xFF")));
  config.data = {directory / "absent.json"};
  EXPECT_THROW(load(), DataError);
  config.data = {};
  EXPECT_THROW(load(), UsageError);
}

TEST_F(ReadersTest, DeeplyNestedJsonIsReadOrRefusedNotACrash) {
  const std::string deep = "[{\"text\": " + std::string(300000, '[') + "\n";
  EXPECT_THAT(error_of("a.json", deep), HasSubstr("3 "));
  EXPECT_THAT(error_of("a.jsonl",
                       "{\"text\": " + std::string(300000, '[') + std::string(300000, ']') + "}"),
              HasSubstr("nested deeper"));
}

TEST_F(ReadersTest, TheFirstErrorIsReportedWhateverTheThreads) {
  std::string lines;
  for (int i = 0; i < 500; ++i) lines += i % 90 == 77 ? "{\"text\": 1}\n" : "{\"text\": \"x\"}\n";
  for (const int threads : {1, 2, 7}) {
    config.threads = threads;
    EXPECT_THAT(error_of("a.jsonl", lines), HasSubstr("a.jsonl:78:"));
  }
}

TEST_F(ReadersTest, DuplicatesAreCounted) {
  config.data = {write(
      "a.json", R"([{"instruction":"a","output":"b"},{"instruction":"a","input":"","output":"b"},
      {"instruction":"a","output":"c"}])")};
  const DataReport report = load().train.report;
  EXPECT_EQ(report.examples, 3U);
  EXPECT_EQ(report.duplicates, 1U);
  EXPECT_EQ(report.format, "alpaca");
}

TEST_F(ReadersTest, PlainTextKeepsItsLinesAndEndsWithTheEndToken) {
  config.data = {write("a.txt", "the cat\r\n\r\n  walks\n")};
  const Dataset train = load().train;
  std::vector<int32_t> expected = tokenizer.encode("the cat\n\n  walks\n");
  expected.push_back(tokenizer.eos_id());
  EXPECT_EQ(train.tokens.all(), expected);
  EXPECT_TRUE(train.is_text);
  EXPECT_EQ(train.report.learned_tokens, expected.size() - 1);
}

TEST_F(ReadersTest, LongTextGivesTheSameTokensWhateverTheThreads) {
  std::string text;
  for (int i = 0; i < 40000; ++i) text += fmt::format("the cat {} walks\n{}", i, i % 9 ? "" : "\n");
  config.data = {write("a.txt", text)};
  std::vector<int32_t> expected = tokenizer.encode(text);
  expected.push_back(tokenizer.eos_id());
  for (const int threads : {1, 3}) {
    config.threads = threads;
    EXPECT_EQ(load().train.tokens.all(), expected);
  }
}

TEST_F(ReadersTest, DocumentsForATokenizerAreWhatItWillSee) {
  config.data = {write("a.json", R"([{"instruction":"q","output":"a"}])"),
                 write("b.txt", "text\n")};
  EXPECT_EQ(load_documents(config),
            (std::vector<std::string>{"user\nq", "\n", "assistant\n", "a", "text\n"}));
}

}  // namespace
}  // namespace train_sft
