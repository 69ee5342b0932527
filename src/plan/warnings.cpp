// Signs, before a run, that it will not do what was meant. Each has a stable id, a sentence for
// people and the numbers behind it.
#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "plan/facts.h"
#include "train_sft/base/progress.h"

namespace train_sft {
namespace {

class Warnings {
 public:
  void add(const char* id, std::string text, std::string evidence) {
    list_.push_back({{"id", id}, {"text", std::move(text)}, {"evidence", std::move(evidence)}});
  }
  Json take() { return std::move(list_); }

 private:
  Json list_ = Json::array();
};

std::string count(uint64_t n) {
  return human_count(static_cast<double>(n));
}
std::string bytes(uint64_t n) {
  return human_bytes(static_cast<double>(n));
}

void about_length(const PlanFacts& facts, Warnings& warnings) {
  const RunShape& run = facts.run;
  const double epochs = run.epochs();
  const std::string steps =
      fmt::format("{} steps, {} an epoch", run.max_iters, run.steps_per_epoch);
  if (epochs < 0.995) {
    warnings.add(
        "partial_epoch",
        fmt::format("The run ends before it has seen all data: {:.0f} % of it.", 100 * epochs),
        steps);
  }
  // Where fine-tuning on instructions usually turns into learning them by heart; text repeated more
  // often than about four times teaches little more (Muennighoff et al. 2023).
  constexpr double kManyEpochs = 5.5;
  if (epochs > kManyEpochs) {
    warnings.add("many_epochs",
                 fmt::format("{} is seen {:.1f} times: beyond about five passes {}.",
                             facts.size().is_text ? "The text" : "Each example", epochs,
                             facts.size().is_text ? "a text teaches little more"
                                                  : "fine-tuning learns its examples by heart"),
                 steps);
  }
  if (run.warmup_iters >= run.max_iters) {
    warnings.add("warmup_too_long",
                 "The run ends within its warm-up: the peak learning rate is reached at its last "
                 "step or never.",
                 fmt::format("warmup_iters {}, max_iters {}", run.warmup_iters, run.max_iters));
  }
}

void about_data(const PlanFacts& facts, Warnings& warnings) {
  const DataSize& size = facts.size();
  if (size.overlap > 0) {
    warnings.add("overlap",
                 "Validation examples also occur in the training data: the validation loss will "
                 "look better than it is.",
                 fmt::format("{} examples", size.overlap));
  }
  const auto batch = static_cast<uint64_t>(facts.config().batch_size);
  if (facts.evaluations > 0 && size.validation_rows < batch) {
    warnings.add("small_validation",
                 "The validation set is smaller than a micro-batch: its loss will jump about.",
                 fmt::format("{} rows, batch_size {}", size.validation_rows, batch));
  }
  if (!size.report) return;
  const DataReport& report = *size.report;
  if (report.truncated * 100 > report.examples) {
    warnings.add("truncated", "More than one example in a hundred is cut to block_size.",
                 fmt::format("{} of {} examples, {} tokens", report.truncated, report.examples,
                             report.truncated_tokens));
  }
  if (report.duplicates * 100 > report.examples) {
    warnings.add("duplicates", "More than one example in a hundred repeats an earlier one.",
                 fmt::format("{} of {} examples", report.duplicates, report.examples));
  }
}

void about_model(const PlanFacts& facts, Warnings& warnings) {
  const int64_t vocab = facts.model.vocab_size;
  if (facts.config().tokenizer.empty() && facts.size().vocab_size == 0 &&
      facts.config().model.vocab_size == 0 && !facts.starts_from_weights()) {
    warnings.add("vocab_size_assumed", "The tokenizer is not known; its usual size is assumed.",
                 fmt::format("vocab_size {}", vocab));
  }
  if (vocab > 1024 && vocab % 64 != 0) {
    warnings.add(
        "vocabulary_padding",
        "The vocabulary is not a multiple of 64: padded to one, the matrix products of the "
        "output layer run at full speed.",
        fmt::format("vocab_size {}; the next multiple is {}", vocab, (vocab + 63) / 64 * 64));
  }
  const double per_parameter = facts.tokens_total() / static_cast<double>(facts.params);
  // Hoffmann et al. 2022: about 20 tokens a parameter make the best of a given amount of compute.
  if (facts.size().is_text && !facts.starts_from_weights() &&
      (per_parameter < 20.0 / 4 || per_parameter > 20.0 * 10)) {
    warnings.add("tokens_per_parameter",
                 per_parameter < 20 ? "Few tokens for a model of this size: a smaller one would "
                                      "learn as much from them."
                                    : "Many tokens for a model of this size: a larger one would "
                                      "make more of the same compute.",
                 fmt::format("{:.1f} tokens a parameter (about 20 is the best use of compute)",
                             per_parameter));
  }
}

// The usual peak for a model trained from nothing falls with its size: 6e-4 at 125M, 2e-4 at 1.3B
// (Brown et al. 2020, table 2.1); small models take up to some 1e-3.
double usual_rate(int64_t params) {
  return std::min(3e-3, 6e-4 * std::pow(static_cast<double>(params) / 125e6, -0.45));
}

void about_rate(const PlanFacts& facts, Warnings& warnings) {
  const double rate = facts.run.peak_lr;
  const bool tuning = facts.starts_from_weights() || !facts.size().is_text;
  const double usual = tuning ? 3e-5 : usual_rate(facts.params);
  const double factor = tuning ? 15 : 10;
  if (rate > usual * factor || rate < usual / (3 * factor)) {
    warnings.add(rate > usual ? "learning_rate_high" : "learning_rate_low",
                 fmt::format("The learning rate is far {} the usual for {}.",
                             rate > usual ? "above" : "below",
                             tuning ? "fine-tuning" : "a model of this size"),
                 fmt::format("{:g}; usual is about {:.1g}, for {} parameters", rate, usual,
                             count(static_cast<uint64_t>(facts.params))));
  }
}

void about_machine(const PlanFacts& facts, Warnings& warnings) {
  if (facts.memory.total() > facts.max_memory) {
    warnings.add(
        "memory",
        facts.largest_batch > 0
            ? fmt::format("The run does not fit into memory; with --batch_size {} it does.",
                          facts.largest_batch)
            : std::string("The run does not fit into memory, even with one row at a time."),
        fmt::format("{} needed, {} allowed (max_memory {})", bytes(facts.memory.total()),
                    bytes(facts.max_memory), facts.config().max_memory));
  }
  if (facts.storage_bytes > facts.free_disk_bytes) {
    warnings.add("disk",
                 "The disk has no room for all that the run keeps: lower keep or "
                 "keep_optimizer.",
                 fmt::format("{} to be written, {} free", bytes(facts.storage_bytes),
                             bytes(facts.free_disk_bytes)));
  }
}

void about_time(const PlanFacts& facts, Warnings& warnings) {
  const PlanRequest& request = facts.request;
  const double steps = static_cast<double>(facts.run.max_iters);
  // What no machine of this kind can beat, else what was measured here with some allowance.
  const double fastest_ms =
      facts.time.step_ms_at_peak > 0 ? facts.time.step_ms_at_peak : facts.time.step_ms / 1.5;
  if (request.expect_steps_per_s && fastest_ms > 0 &&
      *request.expect_steps_per_s * fastest_ms > 1e3) {
    const double expected = *request.expect_steps_per_s;
    std::string evidence =
        fmt::format("{:g} steps/s need {:.3g} FLOP/s", expected, expected * facts.flops_per_step);
    if (request.on) {
      const auto devices = static_cast<double>(request.on->count);
      evidence += fmt::format(", {:.2f} PFLOP/s of each device, whose peak is {:.2f}",
                              expected * facts.flops_per_step / devices / 1e15,
                              request.on->device.peak_flops(facts.precision) / 1e15);
    }
    warnings.add("impossible_speed",
                 fmt::format("{:g} steps a second are impossible: at best {:.3g}, so {} for the "
                             "whole run.",
                             expected, 1e3 / fastest_ms, human_duration(steps * fastest_ms * 1e-3)),
                 evidence);
  }
  if (request.deadline_s && facts.total_s > *request.deadline_s) {
    const double possible =
        (*request.deadline_s) / facts.total_s * static_cast<double>(facts.run.max_iters);
    warnings.add("deadline",
                 fmt::format("The run does not end by the deadline: about {:.0f} steps do.",
                             std::floor(std::max(0.0, possible))),
                 fmt::format("{} needed, {} left", human_duration(facts.total_s),
                             human_duration(*request.deadline_s)));
  }
}

}  // namespace

Json plan_warnings(const PlanFacts& facts) {
  Warnings warnings;
  about_length(facts, warnings);
  about_data(facts, warnings);
  about_model(facts, warnings);
  about_rate(facts, warnings);
  about_machine(facts, warnings);
  about_time(facts, warnings);
  return warnings.take();
}

}  // namespace train_sft
