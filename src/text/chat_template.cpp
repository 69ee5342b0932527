#include "train_sft/text/chat_template.h"

#include <array>
#include <utility>

#include "template_format.h"
#include "train_sft/base/error.h"
#include "train_sft/base/file.h"

namespace train_sft {
namespace {

// The built-in templates, in the file format that people's own are written in.

// ChatML (OpenAI, 2023).
constexpr std::string_view kChatml = R"({
  "name": "chatml",
  "system":    {"prefix": [{"token": "<|im_start|>"}, "system\n"],    "suffix": [{"token": "<|im_end|>"}, "\n"]},
  "user":      {"prefix": [{"token": "<|im_start|>"}, "user\n"],      "suffix": [{"token": "<|im_end|>"}, "\n"]},
  "assistant": {"prefix": [{"token": "<|im_start|>"}, "assistant\n"], "suffix": [{"token": "<|im_end|>"}, "\n"]},
  "tool":      {"prefix": [{"token": "<|im_start|>"}, "tool\n"],      "suffix": [{"token": "<|im_end|>"}, "\n"]}
})";

// Stanford Alpaca's prompt (tatsu-lab/stanford_alpaca); replies end with the end-of-text token.
constexpr std::string_view kAlpaca = R"({
  "name": "alpaca",
  "system":    {"prefix": "\n\n", "first_prefix": "", "suffix": "",
                "default": "Below is an instruction that describes a task. Write a response that appropriately completes the request.",
                "default_with_input": "Below is an instruction that describes a task, paired with an input that provides further context. Write a response that appropriately completes the request."},
  "user":      {"prefix": "\n\n### Instruction:\n", "suffix": "", "input": "\n\n### Input:\n"},
  "assistant": {"prefix": "\n\n### Response:\n", "suffix": [{"token": "eos_token"}]},
  "tool":      {"prefix": "\n\n### Tool:\n", "suffix": ""}
})";

// Llama 3 (meta-llama/llama3, "Prompt format"), with the tokenizer's own beginning of text.
constexpr std::string_view kLlama3 = R"({
  "name": "llama3",
  "begin": [{"token": "bos_token"}],
  "system":    {"prefix": [{"token": "<|start_header_id|>"}, "system", {"token": "<|end_header_id|>"}, "\n\n"], "suffix": [{"token": "<|eot_id|>"}]},
  "user":      {"prefix": [{"token": "<|start_header_id|>"}, "user", {"token": "<|end_header_id|>"}, "\n\n"], "suffix": [{"token": "<|eot_id|>"}]},
  "assistant": {"prefix": [{"token": "<|start_header_id|>"}, "assistant", {"token": "<|end_header_id|>"}, "\n\n"], "suffix": [{"token": "<|eot_id|>"}]},
  "tool":      {"prefix": [{"token": "<|start_header_id|>"}, "tool", {"token": "<|end_header_id|>"}, "\n\n"], "suffix": [{"token": "<|eot_id|>"}]}
})";

// nanochat (karpathy/nanochat, tokenizer.py): only user and assistant turns; a system message is
// put in front of the first user message, tool results are user turns.
constexpr std::string_view kNanochat = R"({
  "name": "nanochat",
  "begin": [{"token": "bos_token"}],
  "system":    {"prefix": [{"token": "<|user_start|>"}], "suffix": "\n\n", "joins_next": true},
  "user":      {"prefix": [{"token": "<|user_start|>"}], "suffix": [{"token": "<|user_end|>"}]},
  "assistant": {"prefix": [{"token": "<|assistant_start|>"}], "suffix": [{"token": "<|assistant_end|>"}]}
})";

struct BuiltIn {
  std::string_view name;
  std::string_view file;
};
constexpr std::array<BuiltIn, 4> kBuiltIn = {
    {{"chatml", kChatml}, {"alpaca", kAlpaca}, {"llama3", kLlama3}, {"nanochat", kNanochat}}};

std::unique_ptr<ChatTemplate> from_json(const Json& json, const std::string& where) {
  const TemplateFormat format = parse_template_format(json, where);
  return std::make_unique<TurnTemplate>(format.name, transitions(format), jinja_of(format));
}

}  // namespace

std::unique_ptr<ChatTemplate> chat_template(const std::string& name) {
  for (const BuiltIn& built_in : kBuiltIn) {
    if (name == built_in.name || (name == "auto" && built_in.name == "chatml"))
      return from_json(parse_json(built_in.file, name), name);
  }
  const bool is_path = name.ends_with(".json") || name.find('/') != std::string::npos;
  if (!is_path) {
    throw UsageError(
        "chat_template '{}' is unknown; choose chatml, alpaca, llama3 or nanochat, or name a .json "
        "file that describes one",
        name);
  }
  constexpr uint64_t kLargestFile = uint64_t{1} << 20;
  if (!path_exists(name) || is_directory(name))
    throw DataError("chat_template {}: no such file", name);
  return from_json(parse_json(read_file(name, kLargestFile), name), name);
}

}  // namespace train_sft
