#include "cli/commands.h"
#include "train_sft/base/file.h"
#include "train_sft/base/log.h"
#include "train_sft/interop/adapter.h"
#include "train_sft/interop/model_export.h"
#include "train_sft/train/checkpoint.h"

namespace train_sft::cli {
namespace {

// Where the file or directory grows until it is whole.
std::string temporary_for(const std::string& out) {
  const std::string temporary = out + ".exporting";
  remove_tree(temporary);
  return temporary;
}

void export_huggingface(const ModelSource& model, const std::string& out, TensorType type) {
  if (type == TensorType::q8_0)
    throw UsageError("dtype: q8_0 is a format of GGUF; Hugging Face models take f32, f16 or bf16");
  const std::string temporary = temporary_for(out);
  make_directories(temporary);
  write_huggingface(model, temporary, type);
  commit_directory(temporary, out);
}

void export_gguf(const ModelSource& model, const std::string& out, TensorType type) {
  const std::string temporary = temporary_for(out);
  const std::string difference = write_gguf(model, temporary, type);
  commit_file(temporary, out);
  if (!difference.empty()) log::warning("{}: {}", out, difference);
}

void export_torch(const ModelSource& model, const std::string& out, TensorType type) {
  if (type == TensorType::q8_0)
    throw UsageError("dtype: q8_0 is a format of GGUF; .pt files take f32, f16 or bf16");
  const std::string temporary = temporary_for(out);
  write_torch(model, temporary, type);
  commit_file(temporary, out);
  log::info("{}: the weights alone; a .pt file holds no tokenizer", out);
}

Outcome run_export(const Invocation& invocation) {
  for (const char* name : {"checkpoint", "format", "out"})
    if (!invocation.has(name))
      throw UsageError("no --{} given: export takes --checkpoint DIR --format hf --out PATH", name);
  const std::string out = invocation.text("out"), format = invocation.text("format");
  if (path_exists(out)) throw UsageError("out: {} is there already; name another", out);
  const std::string directory = resolve_checkpoint(invocation.text("checkpoint"));
  require_valid_checkpoint(directory);
  if (holds_adapter(directory) && !invocation.value("merge").get<bool>())
    throw UsageError(
        "{} holds a LoRA adapter, in PEFT's format as it is; add --merge to export the model with "
        "the adapter merged into it",
        directory);
  const ModelSource model = open_model(directory);
  const TensorType type = stored_type(model, invocation.text("dtype"));
  if (format == "hf") {
    export_huggingface(model, out, type);
  } else if (format == "gguf") {
    export_gguf(model, out, type);
  } else {
    export_torch(model, out, type);
  }
  if (!invocation.settings.config.json) fmt::print("{}\n", out);
  return {
      ExitCode::ok,
      {{"out", out}, {"format", format}, {"dtype", info(type).name}, {"checkpoint", directory}}};
}

}  // namespace

Command export_command() {
  Command command;
  command.name = "export";
  command.summary = "Writes a checkpoint's model in the format of another tool.";
  command.examples = {
      "train_sft export --checkpoint sft/best_model --format gguf --out chat.gguf --dtype q8_0",
      "train_sft export --checkpoint sft/best_model --format hf --out chat --dtype bf16",
  };
  Option format = own_option("format", "string", nullptr,
                             "hf: a Hugging Face directory; gguf: a file for llama.cpp; pt: a "
                             "state dict in nanoGPT's names");
  format.choices = {"hf", "gguf", "pt"};
  Option dtype = own_option("dtype", "string", "auto",
                            "Number format of the weights; auto: the checkpoint's own");
  dtype.choices = {"auto", "f32", "f16", "bf16", "q8_0"};
  command.own_options = {
      own_option("checkpoint", "string", nullptr,
                 "A checkpoint, best_model or a run's directory (its latest)"),
      std::move(format),
      own_option("out", "string", nullptr, "The directory or file to make"),
      std::move(dtype),
      own_option("merge", "bool", false, "Of a LoRA checkpoint: the base with the adapter merged"),
  };
  command.run = run_export;
  return command;
}

}  // namespace train_sft::cli
