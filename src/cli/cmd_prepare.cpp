#include <cstdio>

#include "cli/commands.h"
#include "train_sft/base/file.h"
#include "train_sft/base/log.h"
#include "train_sft/base/signals.h"
#include "train_sft/data/loader.h"

namespace train_sft::cli {
namespace {

std::unique_ptr<Tokenizer> trained_tokenizer(const TrainConfig& config, const std::string& out) {
  const TokenizerTraining training = tokenizer_training(config);
  const std::vector<std::string> documents = load_documents(config);
  log::info("training a {} tokenizer of at most {} tokens on {} documents", training.type,
            training.vocab_size, documents.size());
  const std::string model = train_tokenizer(documents, training);
  make_directories(out);
  write_file_atomically(join_path(out, "tokenizer.model"), model);
  auto tokenizer = load_tokenizer(out);
  tokenizer->save(out, chat_template(config.chat_template)->jinja());
  return tokenizer;
}

Outcome run_prepare(const Invocation& invocation) {
  const signals::ExitDeadline deadline;
  require_data(invocation.settings);
  const TrainConfig& config = invocation.settings.config;
  const std::string out = invocation.text("out");
  const bool trains = config.tokenizer.empty();
  const auto tokenizer = trains ? trained_tokenizer(config, out) : load_tokenizer(config.tokenizer);
  const std::string tokenizer_path = trains ? out : config.tokenizer;

  const auto rendering = chat_template_for(config.chat_template, tokenizer_path);
  DataSplit data = load_data(config, *tokenizer, *rendering);
  const auto add = [&](Dataset& part) {
    if (part.size() == 0) return;
    add_rows(part.report, RowTable(part, resolve_packing(config, part.is_text), config.block_size));
  };
  add(data.train);
  add(data.validation);
  Json result{{"tokenizer", tokenizer_path},
              {"tokenizer_type", tokenizer->kind()},
              {"vocab_size", tokenizer->vocab_size()},
              {"train", to_json(data.train.report)},
              {"validation", to_json(data.validation.report)},
              {"overlap", data.overlap}};
  if (!config.json) {
    fmt::print("tokenizer {}: {}, {} tokens\ntraining data: {}", tokenizer_path, tokenizer->kind(),
               tokenizer->vocab_size(), describe(data.train.report));
    if (data.validation.size() > 0) {
      fmt::print("validation data: {}", describe(data.validation.report));
    }
    fmt::print("train with: train_sft --tokenizer {} --data …\n", tokenizer_path);
  }
  return {ExitCode::ok, std::move(result)};
}

}  // namespace

Command prepare_command() {
  Command command;
  command.name = "prepare";
  command.summary =
      "Trains a tokenizer if none is given, tokenises, packs, and keeps the result for runs to "
      "come.";
  command.examples = {
      "train_sft prepare --data book.txt --tokenizer_type unigram --vocab_size 8000 --out tok",
      "train_sft prepare --data alpaca.json --tokenizer tok --block_size 1024",
  };
  command.own_options = {
      own_option("out", "string", "tokenizer", "Where a tokenizer trained here goes")};
  command.shared = {"Data", "block_size", "vocab_size", "threads"};
  command.reads_files = true;
  command.run = run_prepare;
  return command;
}

}  // namespace train_sft::cli
