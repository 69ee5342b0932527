// Malformed records of every format: the place and the field, and never a crash.
#include <gmock/gmock.h>

#include "train_sft/base/rng.h"
#include "unit/data/data_fixture.h"

namespace train_sft {
namespace {

using testing::AllOf;
using testing::HasSubstr;
using testing::StartsWith;

struct Case {
  const char* format;
  const char* record;  // the third of its file
  const char* named;   // in the message
};

const Case kCases[] = {
    {"alpaca", R"(7)", "number"},
    {"alpaca", R"(null)", "null"},
    {"alpaca", R"([])", "array"},
    {"alpaca", R"({"instruction": "x"})", "'output'"},
    {"alpaca", R"({"output": "x"})", "'instruction'"},
    {"alpaca", R"({"instruction": "x", "output": null})", "'output'"},
    {"alpaca", R"({"instruction": ["x"], "output": "y"})", "'instruction'"},
    {"alpaca", R"({"instruction": "x", "input": 3, "output": "y"})", "'input'"},
    {"alpaca", R"({"instruction": "x", "output": "y", "system": {}})", "'system'"},
    {"alpaca", R"({"instruction": "x", "output": "y", "history": "z"})", "'history'"},
    {"alpaca", R"({"instruction": "x", "output": "y", "history": [["a"]]})", "'history'"},
    {"alpaca", R"({"instruction": "x", "output": "y", "history": [["a", 1]]})", "'history'"},
    {"prompt_completion", R"({"prompt": "x"})", "'completion'"},
    {"prompt_completion", R"({"completion": "x"})", "'prompt'"},
    {"prompt_completion", R"({"prompt": 1, "completion": "x"})", "'prompt'"},
    {"prompt_completion", R"({"prompt": [{"role": "user"}], "completion": "x"})", "'content'"},
    {"messages", R"({"message": []})", "'messages'"},
    {"messages", R"({"messages": "x"})", "'messages'"},
    {"messages", R"({"messages": []})", "'messages'"},
    {"messages", R"({"messages": ["x"]})", "string"},
    {"messages", R"({"messages": [{"content": "x"}]})", "'role'"},
    {"messages", R"({"messages": [{"role": 1, "content": "x"}]})", "'role'"},
    {"messages", R"({"messages": [{"role": "judge", "content": "x"}]})", "'judge'"},
    {"messages", R"({"messages": [{"role": "user"}]})", "'content'"},
    {"messages", R"({"messages": [{"role": "user", "content": 5}]})", "'content'"},
    {"messages", R"({"messages": [{"role": "user", "content": ["x"]}]})", "'content'"},
    {"messages", R"({"messages": [{"role": "user", "content": [{"type": "text"}]}]})", "'value'"},
    {"messages", R"({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]})",
     "'image_url'"},
    {"messages", R"({"messages": [{"role": "user", "content": "x", "loss_weight": -1}]})",
     "'loss_weight'"},
    {"messages", R"({"messages": [{"role": "user", "content": "x", "weight": "1"}]})", "'weight'"},
    {"messages", R"({"messages": [{"role": "user", "content": "x", "train": 1}]})", "'train'"},
    {"messages", R"({"messages": [{"role": "assistant", "tool_calls": "x"}]})", "tool_calls"},
    {"messages", R"({"messages": [{"role": "assistant", "tool_calls": [{"name": 1}]}]})", "name"},
    {"sharegpt", R"({"conversations": {}})", "'conversations'"},
    {"sharegpt", R"({"conversations": []})", "'conversations'"},
    {"sharegpt", R"({"conversations": [{"value": "x"}]})", "'role'"},
    {"sharegpt", R"({"conversations": [{"from": "alien", "value": "x"}]})", "'alien'"},
    {"sharegpt", R"({"conversations": [{"from": "human"}]})", "'content'"},
    {"sharegpt", R"({"conversations": [{"from": "human", "value": {}}]})", "'value'"},
    {"text", R"({"txt": "x"})", "'text'"},
    {"text", R"({"text": ["x"]})", "'text'"},
};

// Two good records of each format.
std::string good_lines(const std::string& format) {
  if (format == "alpaca") {
    return "{\"instruction\": \"the cat\", \"output\": \"walks\"}\n"
           "{\"instruction\": \"she\", \"input\": \"a\", \"output\": \"sings\", \"system\": \"s\", "
           "\"history\": [[\"q\", \"r\"]]}\n";
  }
  if (format == "prompt_completion") {
    return "{\"prompt\": \"the cat\", \"completion\": \"walks\"}\n"
           "{\"prompt\": [{\"role\": \"user\", \"content\": \"she\"}], \"completion\": "
           "\"sings\"}\n";
  }
  if (format == "messages") {
    return "{\"messages\": [{\"role\": \"user\", \"content\": \"the cat\"}, {\"role\": "
           "\"assistant\", \"content\": [{\"type\": \"text\", \"text\": \"walks\"}]}]}\n"
           "{\"messages\": [{\"role\": \"user\", \"content\": \"she\"}, {\"role\": \"assistant\", "
           "\"tool_calls\": [{\"function\": {\"name\": \"f\", \"arguments\": \"{\\\"a\\\": "
           "1}\"}}], "
           "\"loss_weight\": 0.5}], \"tools\": [{\"name\": \"f\"}]}\n";
  }
  if (format == "sharegpt") {
    return "{\"conversations\": [{\"from\": \"human\", \"value\": \"the cat\"}, {\"from\": "
           "\"gpt\", \"value\": \"walks\"}], \"tools\": \"[]\"}\n"
           "{\"conversations\": [{\"role\": \"user\", \"content\": \"she\"}, {\"role\": "
           "\"assistant\", \"content\": \"sings\"}], \"system\": \"s\"}\n";
  }
  return "{\"text\": \"the cat walks\"}\n{\"text\": \"she sings \\ud83d\\ude42 \\u0000\"}\n";
}

class MalformedTest : public DataFixture {};

TEST_F(MalformedTest, TheLineAndTheFieldAreNamed) {
  for (const Case& one : kCases) {
    EXPECT_THAT(error_of("a.jsonl", good_lines(one.format) + one.record + "\n"),
                AllOf(StartsWith("3 "), HasSubstr("a.jsonl:3"), HasSubstr(one.named)))
        << one.format << " " << one.record;
  }
}

TEST_F(MalformedTest, SoItIsInAnArrayOverSeveralLines) {
  for (const Case& one : kCases) {
    std::string lines = good_lines(one.format);
    for (size_t at = lines.find("}\n{"); at != std::string::npos; at = lines.find("}\n{", at))
      lines.replace(at, 3, "},\n{");
    lines.back() = ',';
    EXPECT_THAT(error_of("a.json", "[\n" + lines + "\n\n" + one.record + "\n]\n"),
                AllOf(StartsWith("3 "), HasSubstr("a.json:5"), HasSubstr(one.named)))
        << one.format << " " << one.record;
  }
}

// Whatever bytes change: read, or refused with the file's name.
TEST_F(MalformedTest, DamagedFilesAreReadOrRefusedByName) {
  size_t refused = 0;
  for (const char* format : {"alpaca", "prompt_completion", "messages", "sharegpt", "text"}) {
    const std::string good = good_lines(format);
    ASSERT_EQ(error_of("good.jsonl", good), "no error") << format;
    for (uint64_t seed = 0; seed < 150; ++seed) {
      std::string bad = good;
      for (uint64_t edit = 0; edit <= seed % 3; ++edit) {
        const uint64_t draw = mix64(seed * 7 + edit);
        const size_t at = draw % bad.size();
        switch ((draw >> 32) % 4) {
          case 0:
            bad[at] = static_cast<char>(draw >> 40);
            break;
          case 1:
            bad.erase(at, 1 + (draw >> 40) % 5);
            break;
          case 2:
            bad.insert(at, 1, "{}[]\",:\\"[(draw >> 40) % 8]);
            break;
          default:
            bad.resize(at + 1);
        }
      }
      const std::string error = error_of(seed % 2 == 0 ? "bad.jsonl" : "bad.json", bad);
      if (error == "no error") continue;
      ++refused;
      // 2: nothing is left to learn; 3: data.
      const bool nothing_left = error.starts_with("2 nothing is to be learned");
      EXPECT_TRUE(nothing_left ||
                  (error.starts_with("3 ") && error.find("bad.json") != std::string::npos))
          << error << "\n"
          << bad;
    }
  }
  EXPECT_GT(refused, 300U);
}

}  // namespace
}  // namespace train_sft
