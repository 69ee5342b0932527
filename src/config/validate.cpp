// Contradictions between settings. Whether one value is right is the table's business.
#include "train_sft/base/error.h"
#include "train_sft/config/fp8_settings.h"
#include "train_sft/config/options.h"
#include "train_sft/config/run_shape.h"

namespace train_sft {
namespace {

std::string said(const Settings& settings, const char* name) {
  const Option* option = find_option(name);
  const auto from = settings.source.find(name);
  return fmt::format("{} {} ({})", name, option->get(settings.config).dump(),
                     from == settings.source.end() ? "built-in" : from->second);
}

[[noreturn]] void contradict(const Settings& settings, const char* a, const char* b,
                             const char* advice) {
  throw UsageError("{} contradicts {}: {}", said(settings, a), said(settings, b), advice);
}

bool both_given(const Settings& settings, const char* a, const char* b) {
  return settings.given(a) && settings.given(b);
}

void validate_length(const Settings& settings) {
  const TrainConfig& config = settings.config;
  if (config.max_iters && config.epochs) {
    contradict(settings, "max_iters", "epochs", "both say how long to train; give one");
  }
  if (config.extend_steps && config.max_iters) {
    contradict(settings, "extend_steps", "max_iters", "both say where the run ends; give one");
  }
  if (config.extend_steps && config.epochs) {
    contradict(settings, "extend_steps", "epochs", "both say where the run ends; give one");
  }
  if (config.max_iters && *config.max_iters == 0) {
    throw UsageError(
        "max_iters: 0 steps is nothing to do; expected 1 or more, or -1 for one epoch");
  }
  if (config.epochs && !(*config.epochs > 0)) {
    throw UsageError("epochs: {} is nothing to do; expected more than 0", *config.epochs);
  }
}

void validate_start(const Settings& settings) {
  const TrainConfig& config = settings.config;
  if (config.extend_steps && config.resume.empty()) {
    throw UsageError("extend_steps: {} needs a run to extend; add --resume auto or --resume PATH",
                     *config.extend_steps);
  }
  if (settings.given("on_event") && settings.source.at("on_event") != "command line") {
    throw UsageError(
        "on_event: given in {}; a command is taken from the command line only, so that no file "
        "that "
        "comes with data or a model runs one",
        settings.source.at("on_event"));
  }
  if (config.fresh_schedule && config.resume.empty()) {
    throw UsageError(
        "fresh_schedule: nothing to start afresh; add --resume PATH, or use "
        "--pretrained_model PATH");
  }
  if (config.fresh_schedule && config.extend_steps) {
    contradict(settings, "fresh_schedule", "extend_steps",
               "one starts again at step 0, the other goes on; give one");
  }
  // With resume=auto, pretrained_model is what a first start begins from.
  if (!config.pretrained_model.empty() && !config.resume.empty() && config.resume != "auto") {
    contradict(settings, "resume", "pretrained_model",
               "one continues a run, the other starts a new one; give one");
  }
}

void validate_adapters(const Settings& settings) {
  const TrainConfig& config = settings.config;
  if (config.lora_rank > 0) {
    if (!config.freeze.empty())
      contradict(settings, "freeze", "lora_rank",
                 "LoRA trains its adapters alone, everything else is frozen; give one");
    return;
  }
  for (const char* name : {"lora_alpha", "lora_targets"})
    if (settings.given(name))
      throw UsageError("{}: nothing is adapted; add --lora_rank N, such as 16", name);
}

void validate_schedule(const Settings& settings) {
  const TrainConfig& config = settings.config;
  if (config.min_lr && *config.min_lr > config.learning_rate) {
    contradict(settings, "min_lr", "learning_rate", "the last rate is above the peak");
  }
  // A schedule chosen later makes an earlier file's plateau meaningless, not wrong.
  if (config.plateau_iters && *config.plateau_iters > 0 &&
      config.lr_schedule != "warmup_plateau_cosine" &&
      settings.level("plateau_iters") >= settings.level("lr_schedule")) {
    contradict(settings, "plateau_iters", "lr_schedule",
               "only lr_schedule warmup_plateau_cosine has a plateau");
  }
  if (!config.max_iters || *config.max_iters < 0) return;
  const int64_t ramp = config.warmup_iters.value_or(0) + config.plateau_iters.value_or(0);
  // Against a length given later the schedule is simply cut short.
  if (both_given(settings, "warmup_iters", "max_iters") &&
      settings.level("warmup_iters") >= settings.level("max_iters") && ramp > *config.max_iters) {
    contradict(settings, "warmup_iters", "max_iters",
               "warm-up and plateau are longer than the run");
  }
}

void validate_evaluation(const Settings& settings) {
  const TrainConfig& config = settings.config;
  if (both_given(settings, "val_data", "val_split") && config.val_split > 0) {
    contradict(settings, "val_data", "val_split", "both say what to validate on; give one");
  }
  const bool off = config.eval_interval <= 0 || (config.val_data.empty() && config.val_split == 0);
  if (config.early_stop_patience > 0 && off) {
    contradict(settings, "early_stop_patience",
               config.eval_interval <= 0 ? "eval_interval" : "val_split",
               "stopping early needs evaluation");
  }
}

void validate_processes(const Settings& settings) {
  const TrainConfig& config = settings.config;
  if (config.procs > 1 && config.device.starts_with("cuda"))
    contradict(
        settings, "procs", "device",
        "the processes of --procs compute on the CPU; --gpus N starts one for each of N GPUs");
}

void validate_model(const Settings& settings) {
  const TrainConfig& config = settings.config;
  if (both_given(settings, "tokenizer", "tokenizer_type")) {
    contradict(settings, "tokenizer", "tokenizer_type",
               "tokenizer_type is that of a tokenizer trained here; give one");
  }
  const bool new_model = config.pretrained_model.empty() && config.resume.empty();
  if (!new_model) return;  // shape and batch are then known only with the checkpoint
  ModelConfig model = config.model;
  model.block_size = config.block_size;
  if (model.vocab_size == 0) model.vocab_size = 1;  // the tokenizer's, known later
  validate(model);
  if (model.family == Family::gpt2) {
    for (const char* name : {"rope_theta", "qkv_bias", "qk_norm"}) {
      if (settings.given(name) && settings.level(name) >= settings.level("family")) {
        contradict(settings, name, "family", "only family llama has it");
      }
    }
  }
  resolve_batch(config, 1);
}

}  // namespace

void validate(const Settings& settings) {
  validate_length(settings);
  validate_start(settings);
  validate_adapters(settings);
  validate_schedule(settings);
  validate_evaluation(settings);
  validate_processes(settings);
  validate_model(settings);
  validate_fp8(settings);
  resolve_max_memory(settings.config, 0);  // for its syntax
}

void require_data(const Settings& settings) {
  if (!settings.config.data.empty()) return;
  throw UsageError(
      "no data given: add --data FILE, or this line to ./train_sft.json:\n"
      "  \"data\": [\"my_text.txt\"]");
}

}  // namespace train_sft
