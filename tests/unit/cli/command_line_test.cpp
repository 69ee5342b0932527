#include "cli/command_line.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "cli/utf8_stream.h"

namespace train_sft::cli {
namespace {

using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using Words = std::vector<std::string>;

Command training() {
  Command command;
  command.name = "train";
  command.summary = "Trains.";
  command.examples = {"train_sft --data a.txt"};
  command.own_options = {own_option("steps", "int", 5, "Steps", 1, 10),
                         own_option("prompt", "string", nullptr, "Prompt")};
  command.shared = {"*"};
  return command;
}

Invocation parse(const Words& words) {
  return parse_command_line(training(), words);
}

std::string error_of(const Words& words, const Command& command = training()) {
  try {
    parse_command_line(command, words);
  } catch (const UsageError& error) {
    return error.what();
  }
  return "(no error)";
}

TEST(CommandLineTest, ValuesFollowOrAreJoinedByEquals) {
  EXPECT_EQ(parse({"--lr=1e-3"}).settings.config.learning_rate, 1e-3);
  EXPECT_EQ(parse({"--lr", "1e-3"}).settings.config.learning_rate, 1e-3);
  EXPECT_EQ(parse({"--extend-steps", "7", "--fresh-schedule"}).settings.config.extend_steps, 7);
  EXPECT_EQ(parse({"--out_dir=a=b"}).settings.config.out_dir, "a=b");
}

TEST(CommandLineTest, NegativeNumbersAreValues) {
  EXPECT_EQ(parse({"--eval_every=-1"}).settings.config.eval_interval, -1);
  EXPECT_EQ(parse({"--eval_every", "-1"}).settings.config.eval_interval, -1);
  EXPECT_EQ(parse({"--num_iterations", "-1"}).settings.config.max_iters, -1);
}

TEST(CommandLineTest, ANegativeFractionIsAValue) {
  EXPECT_THAT(error_of({"--lr", "-.5"}), HasSubstr("-0.5"));
  EXPECT_THAT(error_of({"--lr", "-0.5"}), HasSubstr("-0.5"));
}

TEST(CommandLineTest, DashesAndUnderscoresMixInNames) {
  EXPECT_EQ(parse({"--mini_batch-size=4"}).settings.config.batch_size, 4);
  EXPECT_EQ(parse({"--per-device_train-batch_size", "4"}).settings.config.batch_size, 4);
  EXPECT_EQ(parse({"--out-dir=a-b_c"}).settings.config.out_dir, "a-b_c");
}

TEST(CommandLineTest, SwitchesStandAloneOrTakeAValue) {
  EXPECT_TRUE(parse({"--use_tensorboard"}).settings.config.use_tensorboard);
  EXPECT_FALSE(parse({"--use_tensorboard=false"}).settings.config.use_tensorboard);
  EXPECT_FALSE(parse({"--use_tensorboard", "false"}).settings.config.use_tensorboard);
  const Invocation both = parse({"--use_tensorboard", "--seed", "3"});
  EXPECT_TRUE(both.settings.config.use_tensorboard);
  EXPECT_EQ(both.settings.config.seed, 3);
}

TEST(CommandLineTest, ASwitchLeavesTheNextWordToTheArguments) {
  Command inspect = training();
  inspect.arguments = "PATH";
  const Invocation invocation =
      parse_command_line(inspect, {"--json", "a.txt", "--steps", "2", "--use-tensorboard", "no"});
  EXPECT_THAT(invocation.positionals, ElementsAre("a.txt"));
  EXPECT_TRUE(invocation.settings.config.json);
  EXPECT_FALSE(invocation.settings.config.use_tensorboard);
}

TEST(CommandLineTest, TheLastOfARepeatedOptionCounts) {
  EXPECT_EQ(parse({"--lr", "1e-3", "--lr=2e-3"}).settings.config.learning_rate, 2e-3);
}

TEST(CommandLineTest, ListsGatherValuesAndRepetitions) {
  EXPECT_THAT(parse({"--data", "a", "b*2", "--data=c"}).settings.config.data,
              ElementsAre("a", "b*2", "c"));
}

TEST(CommandLineTest, OwnOptionsHaveDefaultsAndAreChecked) {
  const Invocation plain = parse({});
  EXPECT_EQ(plain.integer("steps"), 5);
  EXPECT_FALSE(plain.has("prompt"));
  EXPECT_EQ(parse({"--prompt", "8"}).text("prompt"), "8");
  EXPECT_EQ(parse({"--steps=7"}).integer("steps"), 7);
  EXPECT_THAT(error_of({"--steps", "11"}), AllOf(HasSubstr("steps: '11'"), HasSubstr("from 1")));
}

TEST(CommandLineTest, UnknownOptionsNameTheNearest) {
  EXPECT_THAT(error_of({"--learning_rat", "1"}), HasSubstr("did you mean --learning_rate?"));
  EXPECT_THAT(error_of({"--prompd", "1"}), HasSubstr("did you mean --prompt?"));
  EXPECT_THAT(error_of({"-x"}), HasSubstr("unknown option -x"));
  EXPECT_THAT(error_of({"stray"}), HasSubstr("unexpected 'stray'"));
  Command chat = training();
  chat.name = "chat";
  chat.shared = {};
  EXPECT_THAT(error_of({"--lr=1"}, chat), HasSubstr("not of 'chat'"));
}

TEST(CommandLineTest, MissingValuesAreNamed) {
  EXPECT_THAT(error_of({"--lr"}), HasSubstr("--lr needs a value"));
  EXPECT_THAT(error_of({"--prompt", "--lr", "1"}), HasSubstr("--prompt needs a value"));
  EXPECT_EQ(parse({"--prompt=--lr"}).text("prompt"), "--lr");
  EXPECT_EQ(parse({"--prompt="}).text("prompt"), "");
  EXPECT_EQ(parse({"--prompt", ""}).text("prompt"), "");
  EXPECT_THAT(error_of({"--prompt", "-x"}), HasSubstr("written --prompt=VALUE"));
  EXPECT_EQ(parse({"--prompt=-x"}).text("prompt"), "-x");
}

TEST(CommandLineTest, ContradictionsSurviveParsingForValidation) {
  const Invocation invocation = parse({"--epochs", "3", "--max_steps", "50"});
  EXPECT_THROW(validate(invocation.settings), UsageError);
  EXPECT_THAT(error_of({"--batch_size", "8", "--mini_batch_size", "4"}),
              AllOf(HasSubstr("mini_batch_size"), HasSubstr("8"), HasSubstr("4")));
}

TEST(CommandLineTest, HelpOpensWithExamplesAndShowsAliases) {
  EXPECT_TRUE(parse({"--help"}).help);
  const std::string help = help_text(training());
  EXPECT_EQ(help.find("Examples\n"), 0u);
  EXPECT_THAT(help, HasSubstr("--device_batch_size"));
  for (const Option& option : option_table()) {
    EXPECT_THAT(help, HasSubstr("  --" + option.name));
  }
}

TEST(Utf8StreamTest, CharactersComeWhole) {
  Utf8Stream stream;
  EXPECT_EQ(stream.push("a\xE2\x82"), "a");
  EXPECT_EQ(stream.push("\xAC"), "€");
  EXPECT_EQ(stream.push("\xF0\x9F\x98"), "");
  EXPECT_EQ(stream.push("\x80!"), "😀!");
  EXPECT_EQ(stream.finish(), "");
}

TEST(Utf8StreamTest, BrokenCharactersAreReplaced) {
  Utf8Stream stream;
  EXPECT_EQ(stream.push("a\xFF"
                        "b"),
            "a\uFFFD"
            "b");
  EXPECT_EQ(stream.push("\xE2\x82"), "");
  EXPECT_EQ(stream.push("x"), "\uFFFDx");
  EXPECT_EQ(stream.push("\xC3"), "");
  EXPECT_EQ(stream.finish(), "\uFFFD");
  EXPECT_EQ(well_formed("ok"), "ok");
}

}  // namespace
}  // namespace train_sft::cli
