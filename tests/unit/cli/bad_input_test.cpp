// What a person gets who makes a mistake: the exit code and a message with what, where and the
// remedy. Each row calls the program as main() does.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include "cli/program.h"
#include "train_sft/base/file.h"
#include "train_sft/base/log.h"

namespace train_sft::cli {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using Words = std::vector<std::string>;

struct Ended {
  int code = 0;
  std::string out, err;
};

Ended call_program(const Words& words) {
  ::testing::internal::CaptureStdout();
  ::testing::internal::CaptureStderr();
  Ended ended;
  ended.code = run_program(words);
  log::set_file("");
  ended.out = ::testing::internal::GetCapturedStdout();
  ended.err = ::testing::internal::GetCapturedStderr();
  return ended;
}

class BadInputTest : public ::testing::Test {
 protected:
  void SetUp() override {
    std::string pattern = ::testing::TempDir() + "train_sft_cli_XXXXXX";
    ASSERT_NE(::mkdtemp(pattern.data()), nullptr);
    directory_ = pattern;
    ASSERT_NE(::getcwd(before_, sizeof before_), nullptr);
    ASSERT_EQ(::chdir(directory_.c_str()), 0);
    std::string text;
    for (int i = 0; i < 60; ++i) text += fmt::format("line {} of a small text\n", i);
    write_file_atomically("text.txt", text);
    std::string chat;
    for (int i = 0; i < 20; ++i) {
      chat += fmt::format("{{\"instruction\": \"say {}\", \"input\": \"\", \"output\": \"{}\"}}\n",
                          i, i * i);
    }
    write_file_atomically("chat.jsonl", chat);
  }
  void TearDown() override {
    ASSERT_EQ(::chdir(before_), 0);
    remove_tree(directory_);
  }

  // A run of seconds on `data`, with more options.
  static Words tiny(const std::string& data, const Words& more = {}) {
    Words words{"--data",      data, "--n_layer",        "1",    "--n_head",     "1",
                "--n_embd",    "8",  "--block_size",     "16",   "--batch_size", "4",
                "--max_iters", "2",  "--tokenizer_type", "char", "--threads",    "1"};
    words.insert(words.end(), more.begin(), more.end());
    return words;
  }
  static void expect(const Words& words, int code, const ::testing::Matcher<std::string>& message) {
    const Ended ended = call_program(words);
    EXPECT_EQ(ended.code, code) << ended.err;
    EXPECT_THAT(ended.err, message);
    EXPECT_EQ(ended.out, "");
  }

  std::string directory_;
  char before_[4096];
};

TEST_F(BadInputTest, CommandLineMistakesAreCode2) {
  expect({"--learning_rat", "1e-3"}, 2, HasSubstr("did you mean --learning_rate?"));
  expect({"trian"}, 2, HasSubstr("did you mean 'train'?"));
  expect({"--config", "nanoo"}, 2, HasSubstr("no preset 'nanoo'"));
  expect({}, 2, AllOf(HasSubstr("no data given"), HasSubstr("\"data\": [")));
  expect(tiny("text.txt", {"--epochs", "2"}), 2,
         AllOf(HasSubstr("max_iters"), HasSubstr("epochs")));
  expect(tiny("text.txt", {"--grad_accum", "2", "--total_batch_size", "64"}), 2,
         AllOf(HasSubstr("grad_accum 2"), HasSubstr("total_batch_size 64")));
  expect(tiny("text.txt", {"--total_batch_size", "100"}), 2,
         AllOf(HasSubstr("batch_size 4 × block_size 16 = 64"), HasSubstr("64 and 128")));
  expect(tiny("text.txt", {"--device", "gpu"}), 2, HasSubstr("auto, cpu, cuda"));
  setenv("TRAIN_SFT_CUDA_PLUGIN", "/nowhere/plugin.so", 1);
  expect(tiny("text.txt", {"--device", "cuda"}), 2,
         AllOf(HasSubstr("/nowhere/plugin.so is not there"), HasSubstr("--device cpu")));
  unsetenv("TRAIN_SFT_CUDA_PLUGIN");
  expect(tiny("text.txt", {"--device", "cpu", "--precision", "fp8"}), 2,
         AllOf(HasSubstr("precision fp8"), HasSubstr("bf16")));
  const auto fp8 = [](const char* name, const char* value) {
    return tiny("text.txt", {"--precision", "fp8", name, value});
  };
  expect(tiny("text.txt", {"--fp8_gradients", "e4m3"}), 2,
         AllOf(HasSubstr("fp8_gradients: precision is auto"), HasSubstr("--precision fp8")));
  expect(fp8("--fp8_gradients", "e3m4"), 2, AllOf(HasSubstr("e3m4"), HasSubstr("e5m2, e4m3")));
  expect(fp8("--fp8_scaling", "late"), 2, HasSubstr("delayed, current"));
  expect(fp8("--fp8_history", "1"), 2, AllOf(HasSubstr("fp8_history"), HasSubstr("2 to 1024")));
  expect(fp8("--fp8_margin", "-1"), 2, AllOf(HasSubstr("fp8_margin"), HasSubstr("0 to 8")));
  expect(tiny("text.txt", {"--precision", "fp8", "--fp8_weight_gradient=maybe"}), 2,
         HasSubstr("fp8_weight_gradient"));
  for (const char* bad : {"frist", "-1", "first,1.5", "none,first", ","})
    expect(fp8("--fp8_bf16", bad), 2, AllOf(HasSubstr("fp8_bf16"), HasSubstr("none")));
  expect(tiny("text.txt", {"--precision", "fp8", "--fp8_scaling", "current", "--fp8_history", "4"}),
         2, HasSubstr("fp8_history: 4 steps contradict fp8_scaling current"));
  write_file_atomically("train_sft.json", "{\n  \"lr\": 1,\n  \"bacth_size\": 2\n}");
  expect(tiny("text.txt"), 2, AllOf(HasSubstr("train_sft.json"), HasSubstr("batch_size")));
}

TEST_F(BadInputTest, DataMistakesAreCode3) {
  expect(tiny("none.txt"), 3, HasSubstr("none.txt"));
  write_file_atomically("empty.txt", "");
  expect(tiny("empty.txt"), 3, HasSubstr("empty.txt"));
  write_file_atomically("latin.txt", "caf\xE9 au lait, and a text of some length\n");
  expect(tiny("latin.txt"), 3, AllOf(HasSubstr("latin.txt"), HasSubstr("UTF-8")));
  write_file_atomically("broken.jsonl",
                        "{\"instruction\": \"a\", \"output\": \"b\"}\n{\"instruction\": \"a\",\n");
  expect(tiny("broken.jsonl"), 3, HasSubstr("broken.jsonl:2"));
  write_file_atomically("cut.json", "[{\"instruction\": \"a\", \"output\": \"b\"}, {\"instr");
  expect(tiny("cut.json"), 3, HasSubstr("cut.json:1"));
  write_file_atomically("field.jsonl",
                        "{\"instruction\": \"a\", \"output\": \"b\"}\n{\"instruction\": \"a\"}\n");
  expect(tiny("field.jsonl"), 3, AllOf(HasSubstr("field.jsonl:2"), HasSubstr("'output'")));
}

TEST_F(BadInputTest, NothingLearnedIsAnError) {
  write_file_atomically(
      "unlearned.jsonl",
      "{\"messages\": [{\"role\": \"user\", \"content\": \"only a question\"}]}\n");
  expect(tiny("unlearned.jsonl", {"--val_split", "0"}), 2, HasSubstr("nothing is to be learned"));
}

TEST_F(BadInputTest, OutDirMistakesSayWhatToDo) {
  write_file_atomically("a_file", "");
  expect(tiny("text.txt", {"--out_dir", "a_file/out"}), 5, HasSubstr("a_file"));
  ASSERT_EQ(call_program(tiny("text.txt", {"--out_dir", "run"})).code, 0);
  expect(tiny("text.txt", {"--out_dir", "run"}), 2,
         AllOf(HasSubstr("run"), HasSubstr("--resume auto"), HasSubstr("--out_dir")));
}

TEST_F(BadInputTest, CheckpointMistakesAreCode4) {
  ASSERT_EQ(call_program(tiny("text.txt", {"--out_dir", "run"})).code, 0);
  const std::string checkpoint = "run/" + read_link("run/latest");
  expect({"--data", "text.txt", "--resume", "nowhere"}, 4, HasSubstr("nowhere"));

  // A tokenizer of other text does not fit.
  write_file_atomically("other.txt", "entirely different words: xyz 123 %&$\n");
  ASSERT_EQ(call_program({"prepare", "--data", "other.txt", "--tokenizer_type", "char",
                          "--val_split", "0", "--out", "tok", "--block_size", "8"})
                .code,
            0);
  expect({"--data", "text.txt", "--tokenizer", "tok", "--pretrained_model", checkpoint, "--out_dir",
          "next", "--block_size", "16"},
         4, AllOf(HasSubstr("tok"), HasSubstr("tokenizer")));

  std::string weights = read_file(checkpoint + "/model.safetensors");
  weights[weights.size() - 3] ^= 1;
  write_file_atomically(checkpoint + "/model.safetensors", weights);
  const auto names_the_file = AllOf(HasSubstr("model.safetensors"), HasSubstr("checksum"));
  expect({"--data", "text.txt", "--pretrained_model", checkpoint, "--out_dir", "next2"}, 4,
         names_the_file);
  expect({"generate", "--checkpoint", checkpoint, "--prompt", "a"}, 4, names_the_file);
  const Ended inspected = call_program({"inspect", checkpoint});
  EXPECT_EQ(inspected.code, 4);
  EXPECT_THAT(inspected.out, HasSubstr("NOT VALID"));
}

TEST_F(BadInputTest, JsonReportsErrorsAsOneObjectOnStdout) {
  const Ended ended = call_program({"--json", "--learning_rat", "1"});
  EXPECT_EQ(ended.code, 2);
  const Json json = parse_json(ended.out, "stdout");
  EXPECT_EQ(json["exit_code"], 2);
  EXPECT_THAT(json["error"].get<std::string>(), HasSubstr("learning_rate"));
}

TEST_F(BadInputTest, JsonOfEveryCommandIsOneObjectAndNothingElse) {
  const auto object = [](const Words& words) {
    const Ended ended = call_program(words);
    EXPECT_EQ(ended.code, 0) << ended.err;
    return parse_json(ended.out, words[0]);
  };
  Words train = tiny("text.txt", {"--out_dir", "run", "--json"});
  EXPECT_EQ(object(train)["step"], 2);
  Words plan = tiny("text.txt", {"--json"});
  plan.insert(plan.begin(), "plan");
  EXPECT_EQ(object(plan)["max_iters"], 2);
  EXPECT_EQ(object({"inspect", "run", "--json"})["step"], 2);
  EXPECT_EQ(object({"inspect", "chat.jsonl", "--json"})["examples"], 20);
  EXPECT_EQ(object({"generate", "--checkpoint", "run", "--prompt", "l", "--max_new_tokens", "3",
                    "--json"})["prompt"],
            "l");
  EXPECT_GT(object({"eval", "--checkpoint", "run", "--data", "text.txt", "--json"})["loss"], 0);
  EXPECT_TRUE(object({"version", "--json"}).contains("version"));
}

TEST_F(BadInputTest, PlanAgreesWithWhatTrainingDid) {
  Words words = tiny("text.txt", {"--json", "--out_dir", "run"});
  ASSERT_EQ(call_program(words).code, 0);
  words.insert(words.begin(), "plan");
  const Json plan = parse_json(call_program(words).out, "plan");
  const Json inspected = parse_json(call_program({"inspect", "run", "--json"}).out, "inspect");
  EXPECT_EQ(plan["params"], inspected["params"]);
  EXPECT_EQ(plan["max_iters"], inspected["step"]);
  EXPECT_EQ(plan["examples_per_step"].get<int>() * 2, inspected["examples"].get<int>());
}

}  // namespace
}  // namespace train_sft::cli
