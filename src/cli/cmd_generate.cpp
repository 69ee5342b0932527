#include <cstdio>

#include "cli/commands.h"
#include "cli/loaded_model.h"
#include "cli/plain_text.h"
#include "cli/token_rate.h"
#include "cli/utf8_stream.h"
#include "train_sft/base/log.h"
#include "train_sft/base/signals.h"

namespace train_sft::cli {
namespace {

Outcome run_generate(const Invocation& invocation) {
  const signals::ExitDeadline deadline;
  if (!invocation.has("prompt")) throw UsageError("no prompt given: add --prompt TEXT");
  const std::string prompt = invocation.text("prompt");
  const bool json = invocation.settings.config.json;
  const LoadedModel model = load_model(invocation);
  const SamplingOptions options = sampling(invocation);

  // In training a document follows the end of another; an empty prompt stands just there.
  const int32_t eos = model.tokenizer->eos_id();
  std::vector<int32_t> ids = model.tokenizer->encode(prompt);
  if (ids.empty() && eos >= 0) ids.push_back(eos);
  if (ids.empty()) throw UsageError("prompt: this tokenizer needs at least one character");
  Decoder decoder(*model.parameters);
  if (static_cast<int64_t>(ids.size()) >= decoder.capacity()) {
    throw UsageError("prompt: {} tokens leave no room in the model's context of {}", ids.size(),
                     decoder.capacity());
  }

  Utf8Stream stream;
  std::string text;
  if (!json) show(prompt);
  TokenRate rate;
  const auto on_token = [&](int32_t id) {
    rate.token();
    const std::string bytes = model.tokenizer->token_bytes(id);
    text += bytes;
    if (!json) show(stream.push(bytes));
  };
  std::vector<int32_t> stops;
  if (eos >= 0) stops.push_back(eos);
  const std::vector<int32_t> generated = generate(decoder, ids, stops, options, on_token);
  if (!json) show(stream.finish() + "\n");
  return {signals::stop_code(),
          {{"prompt", prompt},
           {"text", well_formed(text)},
           {"prompt_tokens", ids.size()},
           {"new_tokens", generated.size()},
           {"tokens_per_s", rate.per_second()},
           {"seed", options.seed},
           {"checkpoint", model.directory}}};
}

}  // namespace

Command generate_command() {
  Command command;
  command.name = "generate";
  command.summary = "Continues a text.";
  command.examples = {
      "train_sft generate --checkpoint checkpoints/best_model --prompt \"Once upon a time\"",
      "train_sft generate --checkpoint checkpoints/best_model --prompt ROMEO: --temperature 0",
  };
  command.own_options = {checkpoint_option(),
                         own_option("prompt", "string", nullptr, "The text to continue")};
  for (Option& option : sampling_options()) command.own_options.push_back(std::move(option));
  command.shared = {"precision", "threads"};
  command.run = run_generate;
  return command;
}

}  // namespace train_sft::cli
