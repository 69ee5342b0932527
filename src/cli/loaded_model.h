// A checkpoint ready for generation or scoring, and the options that say which and how.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "cli/command_line.h"
#include "train_sft/model/decoder.h"
#include "train_sft/model/parameters.h"
#include "train_sft/text/chat_template.h"
#include "train_sft/text/tokenizer.h"

namespace train_sft::cli {

struct LoadedModel {
  std::string directory;  // the checkpoint's, links resolved
  std::unique_ptr<Tokenizer> tokenizer;
  std::unique_ptr<ChatTemplate> chat_template;
  std::unique_ptr<Parameters> parameters;
};

// --checkpoint, and with the shared options chat_template, precision and threads.
Option checkpoint_option();
// Throws UsageError without --checkpoint, CheckpointError when it cannot be used.
LoadedModel load_model(const Invocation& invocation);

// --temperature, --top_k, --top_p, --max_new_tokens, --seed.
std::vector<Option> sampling_options();
SamplingOptions sampling(const Invocation& invocation);

}  // namespace train_sft::cli
