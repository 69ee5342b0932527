#include "train/run_setup.h"
#include "train_sft/base/error.h"
#include "train_sft/base/log.h"
#include "train_sft/base/progress.h"

namespace train_sft {
namespace {

std::string stored_tokenizer_directory(const Run& run) {
  return join_path(run.out_dir, "tokenizer");
}

// Trained once, by the first process, and kept with the run: the others, a resume and the
// checkpoints use the same.
std::unique_ptr<Tokenizer> train_and_store(const Run& run) {
  if (!run.writes()) return load_tokenizer(stored_tokenizer_directory(run));
  const TrainConfig& config = run.config();
  const TokenizerTraining training = tokenizer_training(config);
  const auto documents = load_documents(config);
  log::info("training a {} tokenizer of at most {} tokens on {} documents", training.type,
            training.vocab_size, documents.size());
  const std::string directory = stored_tokenizer_directory(run);
  make_directories(directory);
  write_file_atomically(join_path(directory, "tokenizer.model"),
                        train_tokenizer(documents, training));
  return load_tokenizer(directory);
}

std::unique_ptr<Tokenizer> from_checkpoint(const Run& run) {
  const std::string& checkpoint = run.start.checkpoint;
  const std::string& named = run.config().tokenizer;
  std::unique_ptr<Tokenizer> stored;
  if (holds_tokenizer(checkpoint)) stored = load_tokenizer(checkpoint);
  if (!stored && named.empty())
    throw UsageError(
        "tokenizer: {} holds no tokenizer; give the one its model was trained "
        "with by --tokenizer",
        checkpoint);
  if (named.empty()) return stored;
  // Where the run once found its tokenizer need not be there any more: the checkpoint has a copy.
  const bool said_now = !run.settings.source.at("tokenizer").starts_with("checkpoint (");
  if (stored && !said_now && !path_exists(named)) return stored;
  auto given = load_tokenizer(named);
  if (stored && given->fingerprint() != stored->fingerprint())
    throw CheckpointError(
        "tokenizer: {} ({}, {} tokens) is not the tokenizer of {} ({}, {} tokens); "
        "leave --tokenizer out to use the checkpoint's",
        named, given->kind(), given->vocab_size(), checkpoint, stored->kind(),
        stored->vocab_size());
  return given;
}

// The named template, else the one that came with the model or the tokenizer.
std::unique_ptr<ChatTemplate> template_of(const Run& run) {
  const std::string& named = run.config().chat_template;
  const bool fresh = run.start.kind == StartKind::fresh;
  const std::string& home = fresh ? run.config().tokenizer : run.start.checkpoint;
  auto own = chat_template_for("auto", home);
  if (named == "auto") return own;
  const bool stored = !stored_chat_template(home).empty();
  // Where the run once found its template need not be there any more: the checkpoint has a copy.
  const auto source = run.settings.source.find("chat_template");
  const bool said_now =
      source == run.settings.source.end() || !source->second.starts_with("checkpoint (");
  if (!fresh && stored && !said_now) return own;
  auto given = chat_template(named);
  if (!fresh && stored && given->jinja() != own->jinja()) {
    log::warning(
        "chat_template: {} trains with another template than its model was trained with ({})",
        given->name(), own->name());
  }
  return given;
}

// Rows of the embedding of a new model.
void size_vocabulary(Run& run) {
  int64_t& rows = run.settings.config.model.vocab_size;
  const int64_t tokens = run.tokenizer->vocab_size();
  const bool trained_here = run.config().tokenizer.empty();
  if (trained_here || rows == 0) rows = tokens;  // vocab_size was the tokenizer's upper limit
}

}  // namespace

void prepare_tokenizer(Run& run) {
  const TrainConfig& config = run.config();
  if (run.start.kind != StartKind::fresh) {
    run.tokenizer = from_checkpoint(run);
  } else {
    run.tokenizer =
        config.tokenizer.empty() ? train_and_store(run) : load_tokenizer(config.tokenizer);
    size_vocabulary(run);
  }
  const int64_t rows = config.model.vocab_size;
  if (run.tokenizer->vocab_size() > rows)
    throw UsageError("tokenizer: its {} tokens do not fit the model's vocab_size {}",
                     run.tokenizer->vocab_size(), rows);
  run.chat_template = template_of(run);
  log::info("tokenizer: {}, {} tokens, fingerprint {}; chat template: {}", run.tokenizer->kind(),
            run.tokenizer->vocab_size(), run.tokenizer->fingerprint(), run.chat_template->name());
}

}  // namespace train_sft
