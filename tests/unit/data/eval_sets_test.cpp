#include "train_sft/data/eval_sets.h"

#include <gmock/gmock.h>

#include "support/message_of.h"
#include "train_sft/data/multiple_choice.h"
#include "unit/data/data_fixture.h"

namespace train_sft {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

TEST(EvalDataTest, ANameOrThatOfTheFile) {
  const auto sets = parse_eval_data({"base=x/y.txt", "data/held out.jsonl.gz", "a=b=c.json"});
  ASSERT_EQ(sets.size(), 3U);
  EXPECT_EQ(sets[0].name + "|" + sets[0].path, "base|x/y.txt");
  EXPECT_EQ(sets[1].name + "|" + sets[1].path, "held_out|data/held out.jsonl.gz");
  EXPECT_EQ(sets[2].name + "|" + sets[2].path, "a|b=c.json");
}

TEST(EvalDataTest, MistakesAreUsageErrors) {
  for (const char* given : {"=x.txt", "a b=x.txt", "a=", "a/b=x.txt"}) {
    EXPECT_THAT(message_of<UsageError>([&] { parse_eval_data({given}); }), HasSubstr(given));
  }
  EXPECT_THAT(message_of<UsageError>([] {
                parse_eval_data({"a=x.txt", "a=y.txt"});
              }),
              HasSubstr("both called a"));
}

class EvalSetsTest : public DataFixture {};

TEST_F(EvalSetsTest, EachSetIsReadWholeInItsOwnFormat) {
  config.eval_data = {"base=" + write("b.txt", std::string(200, 'x')),
                      "chat=" + write("c.jsonl",
                                      "{\"prompt\": \"a\", \"completion\": \"b\"}\n"
                                      "{\"prompt\": \"c\", \"completion\": \"d\"}\n")};
  config.data = {"not read"};
  config.val_split = 0.5;
  config.packing = "best_fit";
  config.block_size = 32;
  const auto sets = load_eval_sets(config, tokenizer, *chat_template("chatml"));
  ASSERT_EQ(sets.size(), 2U);
  EXPECT_EQ(sets[0]->name, "base");
  EXPECT_TRUE(sets[0]->data.is_text);
  EXPECT_EQ(sets[0]->rows.size(), 200U / 32);
  EXPECT_EQ(sets[1]->data.size(), 2U);
  EXPECT_EQ(sets[1]->rows.size(), 2U) << "one a row";
}

class QuestionsTest : public DataFixture {};

TEST_F(QuestionsTest, HellaSwagsForm) {
  const auto questions =
      read_questions(write("q.jsonl",
                           "{\"ind\": 1, \"ctx\": \"A man\", \"endings\": [\"sits.\", \"runs.\"], "
                           "\"label\": \"1\"}\n\n"
                           "{\"ctx\": \"\", \"endings\": [\"a\", \"b\", \"c\"], \"label\": 0}\n"));
  ASSERT_EQ(questions.size(), 2U);
  EXPECT_EQ(questions[0].context, "A man");
  EXPECT_THAT(questions[0].endings, ElementsAre("sits.", "runs."));
  EXPECT_EQ(questions[0].label, 1U);
  EXPECT_EQ(questions[1].label, 0U);
  EXPECT_THAT(questions[1].where, HasSubstr("q.jsonl:3"));
}

TEST_F(QuestionsTest, MistakesAreNamedWithLineAndField) {
  const std::pair<const char*, const char*> mistakes[] = {
      {"[1]", "array"},
      {"{\"endings\": [\"a\", \"b\"], \"label\": 0}", "ctx"},
      {"{\"ctx\": \"x\", \"label\": 0}", "endings"},
      {"{\"ctx\": \"x\", \"endings\": [\"a\"], \"label\": 0}", "endings"},
      {"{\"ctx\": \"x\", \"endings\": [\"a\", 3], \"label\": 0}", "endings"},
      {"{\"ctx\": \"x\", \"endings\": [\"a\", \"\"], \"label\": 0}", "endings"},
      {"{\"ctx\": \"x\", \"endings\": [\"a\", \"b\"]}", "label"},
      {"{\"ctx\": \"x\", \"endings\": [\"a\", \"b\"], \"label\": 2}", "label"},
      {"{\"ctx\": \"x\", \"endings\": [\"a\", \"b\"], \"label\": -1}", "label"},
      {"{\"ctx\": \"x\", \"endings\": [\"a\", \"b\"], \"label\": \"1x\"}", "label"},
      {"{\"ctx\": \"x\", \"endings\": [\"a\", \"b\"], \"label\": 0.5}", "label"},
      {"{\"ctx\": \"x\"", "malformed JSON"},
  };
  for (const auto& [text, named] : mistakes) {
    const std::string path =
        write("q.jsonl",
              std::string("{\"ctx\": \"x\", \"endings\": [\"a\", \"b\"], \"label\": 0}\n") + text);
    const std::string error = message_of<DataError>([&] { read_questions(path); });
    EXPECT_THAT(error, HasSubstr("q.jsonl:2")) << text;
    EXPECT_THAT(error, HasSubstr(named)) << text;
  }
}

}  // namespace
}  // namespace train_sft
