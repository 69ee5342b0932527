#include "cli/loaded_model.h"

#include <ATen/Parallel.h>

#include <random>

#include "train_sft/base/file.h"
#include "train_sft/base/log.h"
#include "train_sft/train/checkpoint.h"

namespace train_sft::cli {
namespace {

// The template the checkpoint was trained with, unless another is named.
std::unique_ptr<ChatTemplate> template_of(const Settings& settings, const std::string& directory) {
  auto stored = chat_template_for("auto", directory);
  const std::string& name = settings.config.chat_template;
  if (name == "auto") return stored;
  auto named = chat_template(name);
  if (!stored_chat_template(directory).empty() && stored->jinja() != named->jinja()) {
    log::warning("the checkpoint was trained with another chat template ({}) than {}",
                 stored->name(), named->name());
  }
  return named;
}

}  // namespace

Option checkpoint_option() {
  return own_option("checkpoint", "string", nullptr,
                    "A checkpoint, best_model, best_model.pt or a run's directory (its latest)");
}

LoadedModel load_model(const Invocation& invocation) {
  if (!invocation.has("checkpoint")) {
    throw UsageError(
        "no model given: add --checkpoint PATH, such as --checkpoint checkpoints/best_model");
  }
  const TrainConfig& config = invocation.settings.config;
  if (config.threads > 0) at::set_num_threads(static_cast<int>(config.threads));
  LoadedModel model;
  model.directory = resolve_checkpoint(invocation.text("checkpoint"));
  const ModelConfig shape = read_model_config(model.directory);
  model.tokenizer = load_tokenizer(model.directory);
  if (model.tokenizer->vocab_size() > shape.vocab_size) {
    throw CheckpointError(
        "{}: the tokenizer has {} tokens, the model's embedding {} rows: they do "
        "not belong together",
        model.directory, model.tokenizer->vocab_size(), shape.vocab_size);
  }
  model.chat_template = template_of(invocation.settings, model.directory);
  if (config.precision == "fp8")
    throw UsageError("precision fp8: it is for training on a GPU; use --precision bf16 here");
  const at::ScalarType compute = config.precision == "bf16" ? at::kBFloat16 : at::kFloat;
  model.parameters = std::make_unique<Parameters>(shape, at::kFloat, compute, false);
  load_weights(model.directory, *model.parameters);
  return model;
}

std::vector<Option> sampling_options() {
  const SamplingOptions defaults;
  return {
      own_option("temperature", "float", defaults.temperature, "0: always the likeliest token", 0,
                 100),
      own_option("top_k", "int", defaults.top_k, "Draw from the k likeliest tokens; 0: off", 0,
                 1e9),
      own_option("top_p", "float", defaults.top_p,
                 "Draw from the fewest tokens of this total probability; 1: off", 0.001, 1),
      own_option("max_new_tokens", "int", defaults.max_new_tokens, "Longest output", 1, 1e9),
      own_option("seed", "int", nullptr, "The same seed draws the same text; left out: a new one",
                 0, 9e15),
  };
}

SamplingOptions sampling(const Invocation& invocation) {
  SamplingOptions options;
  options.temperature = invocation.number("temperature");
  options.top_k = invocation.integer("top_k");
  options.top_p = invocation.number("top_p");
  options.max_new_tokens = invocation.integer("max_new_tokens");
  options.seed = invocation.has("seed") ? static_cast<uint64_t>(invocation.integer("seed"))
                                        : uint64_t{std::random_device{}()};
  return options;
}

}  // namespace train_sft::cli
