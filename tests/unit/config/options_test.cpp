#include "train_sft/config/options.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <set>

#include "train_sft/base/error.h"
#include "train_sft/base/file.h"

namespace train_sft {
namespace {

using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

constexpr const char* kCli = "command line";

template <typename Call>
std::string error_of(Call call) {
  try {
    call();
  } catch (const UsageError& error) {
    return error.what();
  }
  return "(no error)";
}

std::string validation_of(const Settings& settings) {
  return error_of([&] { validate(settings); });
}

TEST(OptionTableTest, NamesAreUniqueAndSpelledWithUnderscores) {
  std::set<std::string> names;
  for (const Option& option : option_table()) {
    std::vector<std::string> all = option.aliases;
    all.push_back(option.name);
    for (const std::string& name : all) {
      EXPECT_TRUE(names.insert(name).second) << name << " twice";
      EXPECT_EQ(name.find('-'), std::string::npos) << name;
      EXPECT_EQ(find_option(name)->name, option.name);
    }
    EXPECT_FALSE(option.help.empty()) << option.name;
    EXPECT_FALSE(option.default_text.empty()) << option.name;
    EXPECT_FALSE(option.group.empty()) << option.name;
  }
}

TEST(OptionTableTest, EveryAliasOfTheFiveRunsIsKnown) {
  const std::vector<std::pair<const char*, const char*>> aliases{
      {"device_batch_size", "batch_size"},
      {"mini_batch_size", "batch_size"},
      {"per_device_train_batch_size", "batch_size"},
      {"gradient_accumulation_steps", "grad_accum"},
      {"max_steps", "max_iters"},
      {"num_iterations", "max_iters"},
      {"num_train_epochs", "epochs"},
      {"context_length", "block_size"},
      {"max_seq_len", "block_size"},
      {"max_tokens", "block_size"},
      {"eval_every", "eval_interval"},
      {"eval_freq", "eval_interval"},
      {"eval_steps", "eval_interval"},
      {"checkpoint_freq", "save_interval"},
      {"save_steps", "save_interval"},
      {"save_every", "save_interval"},
      {"logging_steps", "log_interval"},
      {"lr", "learning_rate"},
      {"final_lr", "min_lr"},
      {"warmup_steps", "warmup_iters"},
      {"plateau_steps", "plateau_iters"},
      {"init_from", "pretrained_model"},
      {"dtype", "precision"},
      {"extend-steps", "extend_steps"},
      {"eval-every", "eval_interval"},
  };
  for (const auto& [alias, name] : aliases) {
    ASSERT_NE(find_option(alias), nullptr) << alias;
    EXPECT_EQ(find_option(alias)->name, name);
  }
}

TEST(OptionTableTest, DefaultsAreThoseOfTrainConfigAndValid) {
  Settings settings;
  const TrainConfig defaults;
  for (const Option& option : option_table()) {
    const Json value = option.get(defaults);
    EXPECT_NO_THROW(option.set(settings.config, option, value)) << option.name;
    EXPECT_EQ(option.get(settings.config), value) << option.name;
  }
  EXPECT_EQ(validation_of(Settings{}), "(no error)");
}

TEST(OptionTableTest, NearMissesAreSuggested) {
  EXPECT_EQ(nearest_option("learning_rat"), "learning_rate");
  EXPECT_EQ(nearest_option("max-iter"), "max_iters");
  EXPECT_EQ(nearest_option("bacth_size"), "batch_size");
  EXPECT_EQ(nearest_option("tensorboard"), "use_tensorboard");
  EXPECT_EQ(nearest_option("xyzzyplugh"), "");
  EXPECT_THAT(error_of([] { Settings().set("learnig_rate", 1, kCli); }),
              AllOf(HasSubstr("command line: unknown option 'learnig_rate'"),
                    HasSubstr("did you mean 'learning_rate'")));
}

TEST(OptionTableTest, WrongValuesNameOptionValueAndWhatWasExpected) {
  const auto message = [](const char* name, const Json& value) {
    return error_of([&] { Settings().set(name, value, kCli); });
  };
  EXPECT_THAT(message("batch_size", "eight"),
              AllOf(HasSubstr("batch_size: 'eight'"), HasSubstr("a whole number"),
                    HasSubstr("(command line)")));
  EXPECT_THAT(message("batch_size", 0), HasSubstr("from 1"));
  EXPECT_THAT(message("batch_size", 2.5), HasSubstr("a whole number"));
  EXPECT_THAT(message("dropout", 1.5), HasSubstr("from 0 to 0.99"));
  EXPECT_THAT(message("lr_schedule", "cosin"), HasSubstr("constant, linear, cosine"));
  EXPECT_THAT(message("use_tensorboard", "maybe"), HasSubstr("true or false"));
  EXPECT_THAT(message("data", 3), HasSubstr("a text or a list of texts"));
  EXPECT_THAT(message("device", "gpu"), HasSubstr("auto, cpu, cuda"));
  EXPECT_THAT(message("device", "cuda:x"), HasSubstr("auto, cpu, cuda"));
  EXPECT_EQ(message("device", "cuda:3"), "(no error)");
  EXPECT_EQ(message("max_iters", -1), "(no error)");
  EXPECT_THAT(message("max_iters", -2), HasSubstr("from -1"));
  EXPECT_EQ(message("max_iters", 1e6), "(no error)");
}

TEST(OptionTextTest, TextOfTheCommandLineTakesTheOptionsType) {
  const auto parse = [](const char* name, const char* text) {
    return parse_option_text(*find_option(name), text);
  };
  EXPECT_EQ(parse("eval_every", "-1"), Json(-1));
  EXPECT_EQ(parse("lr", "7e-5"), Json(7e-5));
  EXPECT_EQ(parse("max_iters", "1e6"), Json(1e6));
  EXPECT_EQ(parse("use_tensorboard", "false"), Json(false));
  EXPECT_EQ(parse("out_dir", "8"), Json("8"));
  EXPECT_EQ(parse("data", "a.txt"), Json({"a.txt"}));
  EXPECT_EQ(parse("batch_size", "8x"), Json("8x"));
}

TEST(SettingsTest, LaterSourcesWinAndAreRemembered) {
  Settings settings;
  apply_json(settings, {{"lr", 1e-3}, {"batch_size", 4}}, "train_sft.json");
  settings.set("device_batch_size", 16, kCli);
  EXPECT_EQ(settings.config.batch_size, 16);
  EXPECT_EQ(settings.source["batch_size"], kCli);
  EXPECT_EQ(settings.source["learning_rate"], "train_sft.json");
  EXPECT_TRUE(settings.given("lr"));
  EXPECT_FALSE(settings.given("beta1"));
}

TEST(SettingsTest, TwoNamesOfOneOptionMustAgreeWithinASource) {
  Settings settings;
  settings.set("batch_size", 8, kCli);
  settings.set("batch_size", 4, kCli);
  EXPECT_EQ(settings.config.batch_size, 4) << "the same flag again: the last one counts";
  EXPECT_THAT(
      error_of([&] { settings.set("mini_batch_size", 2, kCli); }),
      AllOf(HasSubstr("batch_size"), HasSubstr("mini_batch_size"), HasSubstr("4"), HasSubstr("2")));
  Settings agreeing;
  agreeing.set("batch_size", 8, kCli);
  EXPECT_NO_THROW(agreeing.set("mini_batch_size", 8, kCli));
}

TEST(SettingsTest, LengthOnTheCommandLineReplacesAPresetsEpochs) {
  Settings settings;
  settings.set("epochs", 3, "configs/a.json");
  settings.set("max_iters", 50, kCli);
  EXPECT_FALSE(settings.config.epochs.has_value());
  EXPECT_FALSE(settings.given("epochs"));
  EXPECT_EQ(validation_of(settings), "(no error)");
}

TEST(SettingsTest, TwoLengthsOfOneSourceContradict) {
  Settings settings;
  settings.set("epochs", 3, kCli);
  settings.set("max_steps", 50, kCli);
  EXPECT_THAT(validation_of(settings), AllOf(HasSubstr("max_iters 50"), HasSubstr("epochs 3")));
}

TEST(SettingsTest, AccumulationOnTheCommandLineReplacesAPresetsOtherSpelling) {
  Settings settings;
  settings.set("target_examples_per_step", 32, "configs/a.json");
  settings.set("batch_size", 8, kCli);
  settings.set("grad_accum", 1, kCli);
  EXPECT_FALSE(settings.config.target_examples_per_step.has_value());
  EXPECT_EQ(validation_of(settings), "(no error)");
}

TEST(ValidateTest, ContradictionsNameBothSettings) {
  struct Row {
    std::vector<std::pair<const char*, Json>> given;
    std::vector<const char*> named;
  };
  const std::vector<Row> rows{
      {{{"grad_accum", 4}, {"total_batch_size", 8192}}, {"grad_accum", "total_batch_size"}},
      {{{"total_batch_size", 1000}}, {"total_batch_size", "batch_size"}},
      {{{"extend_steps", 5}}, {"extend_steps", "--resume"}},
      {{{"extend_steps", 5}, {"max_iters", 4}, {"resume", "auto"}}, {"extend_steps", "max_iters"}},
      {{{"resume", "x"}, {"pretrained_model", "y"}}, {"resume", "pretrained_model"}},
      {{{"fresh_schedule", true}}, {"fresh_schedule"}},
      {{{"min_lr", 1e-3}, {"lr", 1e-4}}, {"min_lr", "learning_rate"}},
      {{{"plateau_iters", 5}, {"lr_schedule", "cosine"}}, {"plateau_iters", "lr_schedule"}},
      {{{"warmup_iters", 50}, {"max_iters", 40}}, {"warmup_iters", "max_iters"}},
      {{{"early_stop_patience", 2}, {"eval_every", -1}}, {"early_stop_patience", "eval_interval"}},
      {{{"val_data", "v"}, {"val_split", 0.1}}, {"val_data", "val_split"}},
      {{{"tokenizer", "t"}, {"tokenizer_type", "bpe"}}, {"tokenizer", "tokenizer_type"}},
      {{{"n_head", 5}}, {"n_embd", "n_head"}},
      {{{"n_kv_head", 4}}, {"n_kv_head"}},
      {{{"rope_theta", 1e6}}, {"rope_theta", "family"}},
      {{{"max_iters", 0}}, {"max_iters"}},
  };
  for (const Row& row : rows) {
    Settings settings;
    for (const auto& [name, value] : row.given) settings.set(name, value, kCli);
    const std::string message = validation_of(settings);
    for (const char* name : row.named) EXPECT_THAT(message, HasSubstr(name));
  }
}

TEST(ValidateTest, ShorterRunThanAPresetsWarmupIsNoContradiction) {
  Settings settings;
  apply_json(settings, {{"warmup_iters", 100}, {"max_iters", 2000}}, "configs/a.json");
  settings.set("max_iters", 5, kCli);
  EXPECT_EQ(validation_of(settings), "(no error)");
}

TEST(ValidateTest, NoDataTellsTheLineToAdd) {
  EXPECT_THAT(error_of([] { require_data(Settings{}); }),
              AllOf(HasSubstr("--data"), HasSubstr("\"data\": [")));
}

TEST(SettingsTest, SavedSettingsGiveTheSameRunAgain) {
  Settings settings;
  apply_json(settings, {{"epochs", 2}, {"data", {"a", "b"}}}, "train_sft.json");
  settings.set("lr", 1e-3, kCli);
  const Json saved = parse_json(dump_json(to_json(settings)), "config.json");
  Settings again;
  apply_json(again, saved, "config.json");
  EXPECT_EQ(again.config.epochs, 2);
  EXPECT_EQ(again.config.learning_rate, 1e-3);
  EXPECT_THAT(again.config.data, ElementsAre("a", "b"));
  EXPECT_FALSE(again.given("min_lr"));
  EXPECT_FALSE(again.given("max_iters"));
}

TEST(SettingsTest, DescriptionShowsValueAndSource) {
  Settings settings;
  settings.set("lr", 0.5, kCli);
  const std::string text = describe(settings, /*built_in=*/true);
  EXPECT_THAT(text, ::testing::ContainsRegex("learning_rate +0.5 +command line"));
  EXPECT_THAT(text, ::testing::ContainsRegex("min_lr +learning_rate / 10 +built-in"));
  const std::string given = describe(settings, /*built_in=*/false);
  EXPECT_THAT(given, ::testing::MatchesRegex("[^\n]+\n  learning_rate +0.5 +command line\n"));
}

TEST(OptionTableTest, MarkdownHoldsEveryOption) {
  const std::string markdown = options_markdown();
  for (const Option& option : option_table()) {
    EXPECT_THAT(markdown, HasSubstr("| `" + option.name + "` |"));
  }
}

TEST(OptionTableTest, ReadmeHoldsTheTable) {
  const std::string readme = std::string(TRAIN_SFT_SOURCE_DIR) + "/README.md";
  const std::string begin = "<!-- options:", end = "<!-- /options -->";
  if (!path_exists(readme)) GTEST_SKIP() << "no README.md";
  const std::string text = read_file(readme);
  const size_t first = text.find('\n', text.find(begin));
  const size_t last = text.find(end);
  ASSERT_NE(text.find(begin), text.npos) << "README.md has lost its mark " << begin;
  ASSERT_NE(last, text.npos) << "README.md has lost its mark " << end;
  EXPECT_TRUE(text.substr(first + 1, last - first - 1) == options_markdown())
      << "put the output of `train_sft options --markdown` between the marks in README.md";
}

class ConfigFilesTest : public ::testing::Test {
 protected:
  void SetUp() override {
    std::string pattern = ::testing::TempDir() + "train_sft_config_XXXXXX";
    ASSERT_NE(::mkdtemp(pattern.data()), nullptr);
    directory_ = pattern;
    ASSERT_NE(::getcwd(before_, sizeof before_), nullptr);
    ASSERT_EQ(::chdir(directory_.c_str()), 0);
    make_directories("configs");
  }
  void TearDown() override {
    ASSERT_EQ(::chdir(before_), 0);
    remove_tree(directory_);
  }

  std::string directory_;
  char before_[4096];
};

TEST_F(ConfigFilesTest, PresetWinsOverTheDirectorysFile) {
  write_file_atomically("train_sft.json", R"({"lr": 1, "batch_size": 2})");
  write_file_atomically("configs/mine.json", R"({"description": "mine", "lr": 2})");
  Settings settings;
  apply_files(settings, "mine");
  EXPECT_EQ(settings.config.learning_rate, 2);
  EXPECT_EQ(settings.source["learning_rate"], "configs/mine.json");
  EXPECT_EQ(settings.config.batch_size, 2);
}

TEST_F(ConfigFilesTest, DirectorysFileMayBuildOnAPresetWhichTheCommandLineReplaces) {
  write_file_atomically("configs/base.json", R"({"lr": 1, "epochs": 3})");
  write_file_atomically("configs/other.json", R"({"beta1": 0.5})");
  write_file_atomically("train_sft.json", R"({"config": "base", "max_iters": 7})");
  Settings settings;
  apply_files(settings, "");
  EXPECT_EQ(settings.config.learning_rate, 1);
  EXPECT_EQ(settings.config.max_iters, 7);
  EXPECT_FALSE(settings.config.epochs.has_value());
  Settings replaced;
  apply_files(replaced, "configs/other.json");
  EXPECT_EQ(replaced.config.learning_rate, 3e-4);
  EXPECT_EQ(replaced.config.beta1, 0.5);
}

TEST_F(ConfigFilesTest, MistakesAreUsageErrors) {
  write_file_atomically("configs/tiny.json", "{\"lr\": }");
  write_file_atomically("configs/loop.json", R"({"config": "loop"})");
  write_file_atomically("configs/unknown.json", R"({"learnin_rate": 1})");
  Settings settings;
  EXPECT_THAT(error_of([&] { apply_files(settings, "tinny"); }),
              AllOf(HasSubstr("no preset 'tinny'"), HasSubstr("did you mean 'tiny'")));
  EXPECT_THAT(error_of([&] { apply_files(settings, "tiny"); }), HasSubstr("tiny.json:1:8"));
  EXPECT_THAT(error_of([&] { apply_files(settings, "none.json"); }), HasSubstr("none.json"));
  EXPECT_THAT(error_of([&] { apply_files(settings, "loop"); }), HasSubstr("itself"));
  EXPECT_THAT(error_of([&] { apply_files(settings, "unknown"); }),
              AllOf(HasSubstr("configs/unknown.json"), HasSubstr("learning_rate")));
}

}  // namespace
}  // namespace train_sft
