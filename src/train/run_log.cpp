// What a run says before it starts: settings, data, model, shape of the run, learning rates.
#include <sstream>

#include "train/run_setup.h"
#include "train_sft/base/log.h"
#include "train_sft/base/progress.h"

namespace train_sft {
namespace {

std::string count(uint64_t n) {
  return human_count(static_cast<double>(n));
}

void log_lines(log::Level level, const std::string& prefix, const std::string& text) {
  std::istringstream lines(text);
  for (std::string line; std::getline(lines, line);) log::write(level, prefix + line);
}

void log_data(const Run& run) {
  log_lines(log::Level::info, "training data: ", describe(run.data.train.report));
  if (run.validation_rows)
    log_lines(log::Level::info, "validation data: ", describe(run.data.validation.report));
  else
    log::info("no validation data: best_model follows latest");
  if (run.data.overlap > 0)
    log::warning(
        "{} validation examples also occur in the training data: the validation loss will "
        "look better than it is",
        run.data.overlap);
}

void log_model(const Run& run) {
  const ModelConfig& model = run.parameters->config();
  log::info(
      "model: {}, {} parameters: {} layers, {} heads, width {}, feed-forward {}, vocabulary "
      "{}, context {}",
      model.family == Family::gpt2 ? "gpt2" : "llama",
      count(static_cast<uint64_t>(run.parameters->layout().count())), model.n_layer, model.n_head,
      model.n_embd, model.ffn(), model.vocab_size, model.block_size);
  const auto& layout = run.parameters->layout();
  if (layout.trained_count() < layout.count() || run.parameters->training().adapts())
    log::info(
        "trained: {} parameters{}, {:.2f} % of the model's",
        count(static_cast<uint64_t>(layout.trained_count())),
        run.parameters->training().adapts() ? " of LoRA's adapters" : "",
        100.0 * static_cast<double>(layout.trained_count()) / static_cast<double>(layout.count()));
  log::info("precision {}, {} threads, activations {}", run.state.precision, run.state.threads,
            human_bytes(static_cast<double>(run.engine->arena_bytes())));
}

void log_length(const Run& run) {
  const BatchShape& batch = run.batch;
  log::info("a step: {} rows = {} {} × grad_accum {}{}, up to {} tokens", batch.rows_per_step(),
            run.config().batch_size_auto ? "micro-batch" : "batch_size", batch.batch_size,
            batch.grad_accum, batch.ranks > 1 ? fmt::format(" × {} ranks", batch.ranks) : "",
            batch.tokens_per_step());
  const int processes = run.collective.size();
  if (processes > 1)
    log::info("{} processes share each step's {} micro-batches", processes,
              batch.ranks * batch.grad_accum);
  else if (batch.ranks > 1)
    log::info("the {} ranks are computed one after another on this device", batch.ranks);
  log::info("an epoch: {} steps; the run: {} steps, {:.3f} epochs{}", run.shape.steps_per_epoch,
            run.schedule.max_iters, run.shape.epochs(),
            run.state.step > 0 ? fmt::format(", {} done", run.state.step) : "");
  const Schedule& schedule = run.schedule;
  log::info(
      "learning rate ({}): warm-up {} steps, plateau {}; {:.3g} at step {}, {:.3g} at the end",
      schedule.kind, schedule.warmup_iters, schedule.plateau_iters,
      schedule.lr(schedule.first_step + schedule.warmup_iters),
      schedule.first_step + schedule.warmup_iters + 1, schedule.lr(schedule.max_iters - 1));
}

}  // namespace

void log_settings(const Run& run) {
  log_lines(log::Level::info, "  ",
            "settings given (all that are in force: training.log, config.json):\n" +
                describe(run.settings, /*built_in=*/false));
  log_lines(log::Level::debug, "  ",
            "settings in force, with their source:\n" + describe(run.settings, /*built_in=*/true));
}

void log_run(const Run& run) {
  log_data(run);
  log_model(run);
  log_length(run);
}

}  // namespace train_sft
