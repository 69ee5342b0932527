#include "train/samples.h"

#include <optional>
#include <sstream>

#include "train_sft/base/error.h"
#include "train_sft/base/log.h"
#include "train_sft/base/signals.h"
#include "train_sft/model/decoder.h"

namespace train_sft {
namespace {

constexpr int64_t kTextPromptTokens = 16;
constexpr int64_t kNewTokens = 64;
constexpr uint64_t kMaxPromptFileBytes = 1 << 20;

// A conversation up to its first learned token, or the first words of a text.
std::vector<int32_t> beginning_of_first_example(const Run& run) {
  const Dataset& data = run.data.validation.size() > 0 ? run.data.validation : run.data.train;
  const uint64_t length = data.offsets[1] - data.offsets[0];
  uint64_t end = std::min<uint64_t>(length, kTextPromptTokens);
  if (!data.weights.empty())
    for (end = 0; end < length && data.weights[data.offsets[0] + end] == 0.0f;) ++end;
  return data.tokens.slice(data.offsets[0], data.offsets[0] + end);
}

// "@file" stands for the lines of that file.
std::vector<std::string> prompt_texts(const std::vector<std::string>& given) {
  std::vector<std::string> texts;
  for (const std::string& prompt : given) {
    if (!prompt.starts_with('@')) {
      texts.push_back(prompt);
      continue;
    }
    const std::string path = prompt.substr(1);
    std::istringstream lines(read_file(path, kMaxPromptFileBytes));
    const size_t before = texts.size();
    for (std::string line; std::getline(lines, line);) {
      if (line.ends_with('\r')) line.pop_back();
      if (!line.empty()) texts.push_back(line);
    }
    if (texts.size() == before) throw DataError("sample_prompts: {} holds no prompt", path);
  }
  return texts;
}

}  // namespace

std::vector<std::vector<int32_t>> sample_prompts(const Run& run) {
  std::vector<std::vector<int32_t>> prompts;
  for (const auto& text : prompt_texts(run.config().sample_prompts)) {
    if (run.data.train.is_text) {
      prompts.push_back(run.tokenizer->encode(text));
      continue;
    }
    Message question;
    question.role = Role::user;
    question.content = text;
    prompts.push_back(run.chat_template->prompt(*run.tokenizer, {question}));
  }
  if (prompts.empty()) prompts.push_back(beginning_of_first_example(run));
  std::erase_if(prompts, [&](const auto& ids) {
    return ids.empty() || static_cast<int64_t>(ids.size()) >= run.parameters->config().block_size;
  });
  return prompts;
}

void write_samples(Run& run, const std::vector<std::vector<int32_t>>& prompts) {
  std::vector<int32_t> stop_ids = {run.tokenizer->eos_id()};
  if (!run.data.train.is_text) stop_ids.push_back(run.chat_template->end_of_reply(*run.tokenizer));
  SamplingOptions sampling;
  sampling.max_new_tokens = kNewTokens;
  sampling.seed = static_cast<uint64_t>(run.config().seed);
  // Token by token the CPU does it.
  std::optional<Parameters> host;
  if (!run.device.is_cpu()) host = run.parameters->host_copy();
  Decoder decoder(host ? *host : *run.parameters);
  for (size_t i = 0; i < prompts.size() && !signals::stop_requested(); ++i) {
    decoder.clear();
    const std::string prompt = run.tokenizer->decode(prompts[i]);
    const std::string reply =
        run.tokenizer->decode(generate(decoder, prompts[i], stop_ids, sampling));
    const Json line = {{"step", run.state.step}, {"prompt", prompt}, {"sample", reply}};
    // A sample may end within a UTF-8 character: it is replaced, not refused.
    run.samples->write(line.dump(-1, ' ', false, Json::error_handler_t::replace) + "\n");
    log::info("sample at step {}: {} → {}", run.state.step,
              Json(prompt).dump(-1, ' ', false, Json::error_handler_t::replace),
              Json(reply).dump(-1, ' ', false, Json::error_handler_t::replace));
    run.metrics->text(fmt::format("sample/{}", i), run.state.step, reply);
  }
}

}  // namespace train_sft
