// A small model that has learned its answers, asked by eval and chat.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include "cli/program.h"
#include "train_sft/base/file.h"
#include "train_sft/base/log.h"

namespace train_sft::cli {
namespace {

Json call(std::vector<std::string> words) {
  words.push_back("--json");
  ::testing::internal::CaptureStdout();
  ::testing::internal::CaptureStderr();
  const int code = run_program(words);
  log::set_file("");
  const std::string out = ::testing::internal::GetCapturedStdout();
  const std::string err = ::testing::internal::GetCapturedStderr();
  EXPECT_EQ(code, 0) << err;
  return parse_json(out, "stdout");
}

TEST(AnswersTest, LearnedAnswersMatchExactlyAndOthersDoNot) {
  std::string pattern = ::testing::TempDir() + "train_sft_answers_XXXXXX";
  ASSERT_NE(::mkdtemp(pattern.data()), nullptr);
  const auto at = [&](const std::string& name) { return join_path(pattern, name); };
  const auto record = [](const char* question, const char* answer, const char* category) {
    return fmt::format(
        "{{\"instruction\": \"{}\", \"input\": \"\", \"output\": \"{}\", \"category\": \"{}\"}}\n",
        question, answer, category);
  };
  const std::string learned = record("a?", "yes", "first") + record("b?", "no", "second");
  write_file_atomically(at("learned.jsonl"), learned);
  write_file_atomically(at("asked.jsonl"), learned + record("a?", "no", "wrong"));
  call({"--data",           at("learned.jsonl"),
        "--val_split",      "0",
        "--tokenizer_type", "char",
        "--n_layer",        "1",
        "--n_head",         "2",
        "--n_embd",         "32",
        "--block_size",     "64",
        "--batch_size",     "2",
        "--max_iters",      "60",
        "--learning_rate",  "1e-2",
        "--threads",        "1",
        "--eval_interval",  "-1",
        "--out_dir",        at("run")});

  const Json scored =
      call({"eval", "--checkpoint", at("run"), "--data", at("asked.jsonl"), "--exact_match", "-1",
            "--group_by", "category", "--show", "1", "--threads", "1"});
  const Json& match = scored["exact_match"];
  EXPECT_EQ(match["asked"], 3) << scored.dump(2);
  EXPECT_EQ(match["right"], 2) << scored.dump(2);
  EXPECT_EQ(match["by_group"]["first"]["accuracy"], 1.0);
  EXPECT_EQ(match["by_group"]["second"]["accuracy"], 1.0);
  EXPECT_EQ(match["by_group"]["wrong"]["accuracy"], 0.0);
  EXPECT_EQ(match["answers"][0]["got"], "yes");

  const Json reply =
      call({"chat", "--checkpoint", at("run"), "--prompt", "b?", "--temperature", "0"});
  EXPECT_EQ(reply["reply"], "no") << "chat feeds the model what training showed it";
  remove_tree(pattern);
}

}  // namespace
}  // namespace train_sft::cli
