#include "cli/commands.h"
#include "train_sft/base/file.h"
#include "train_sft/base/log.h"
#include "train_sft/base/progress.h"
#include "train_sft/config/parameter_layout.h"
#include "train_sft/interop/model_export.h"
#include "train_sft/train/checkpoint.h"

namespace train_sft::cli {
namespace {

void check_out(const std::string& out) {
  if (!path_exists(out)) return;
  if (is_directory(out) && list_directory(out).empty()) return;
  throw UsageError("out: {} is there already; name a directory that is not", out);
}

std::string tokenizer_directory(const Invocation& invocation) {
  const std::string path = invocation.text("tokenizer");
  if (is_directory(path) && holds_tokenizer(path)) return path;
  throw UsageError("tokenizer: {} is no directory that holds a tokenizer", path);
}

Outcome run_import(const Invocation& invocation) {
  for (const char* name : {"from", "out"})
    if (!invocation.has(name))
      throw UsageError("no --{0} given: add --from PATH (a model) and --out DIR", name);
  const std::string from = invocation.text("from"), out = invocation.text("out");
  check_out(out);
  OpenOptions options;
  if (invocation.has("n_head")) options.n_head = invocation.integer("n_head");
  if (invocation.has("tokenizer")) options.tokenizer = tokenizer_directory(invocation);
  ModelSource model = open_model(from, options);
  const TensorType type = stored_type(model, invocation.text("dtype"));
  const int64_t parameters = parameter_layout(model.config).count();
  log::info("{}: a {} model of {} parameters, stored as {}", from, model.format,
            human_count(static_cast<double>(parameters)), info(type).name);
  for (const std::string& note : model.notes) log::info("{}", note);

  // Under a name of its own until it is whole.
  const std::string temporary = out + ".importing";
  remove_tree(temporary);
  make_directories(temporary);
  write_huggingface(model, temporary, type);
  seal_model_directory(temporary);
  if (path_exists(out)) remove_tree(out);
  commit_directory(temporary, out);

  const bool tokenizer = holds_tokenizer(out);
  if (!tokenizer)
    log::warning(
        "no tokenizer came with the model; name its tokenizer with --tokenizer when you train");
  const bool json = invocation.settings.config.json;
  if (!json) fmt::print("{}\nchat with: train_sft chat --checkpoint {}\n", out, out);
  return {ExitCode::ok,
          {{"out", out},
           {"format", model.format},
           {"params", parameters},
           {"dtype", info(type).name},
           {"tokenizer", tokenizer}}};
}

}  // namespace

Command import_command() {
  Command command;
  command.name = "import";
  command.summary = "Makes a checkpoint of a model in another format.";
  command.examples = {
      "train_sft import --from SmolLM2-135M-Instruct.Q4_1.gguf --out smollm2",
      "train_sft import --from models/TinyLlama --out tinyllama --dtype bf16",
  };
  Option dtype = own_option("dtype", "string", "auto",
                            "Number format of the weights; auto: the model's own, else f32");
  dtype.choices = {"auto", "f32", "f16", "bf16"};
  command.own_options = {
      own_option("from", "string", nullptr,
                 "A Hugging Face directory, a .gguf, a .pt (nanoGPT's names) or llm.c's .bin"),
      own_option("out", "string", nullptr, "The checkpoint directory to make"),
      std::move(dtype),
      own_option("tokenizer", "string", nullptr,
                 "A directory whose tokenizer goes with the model; none: the model's own"),
      own_option("n_head", "int", nullptr, "Attention heads, of a file that does not say", 1, 1e6),
  };
  command.run = run_import;
  return command;
}

}  // namespace train_sft::cli
