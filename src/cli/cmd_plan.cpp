#include <fmt/ranges.h>

#include <algorithm>
#include <cmath>
#include <cstdio>

#include "cli/commands.h"
#include "train_sft/base/file.h"
#include "train_sft/base/log.h"
#include "train_sft/base/progress.h"
#include "train_sft/config/run_shape.h"
#include "train_sft/data/loader.h"
#include "train_sft/model/parameters.h"
#include "train_sft/train/checkpoint.h"
#include "train_sft/train/schedule.h"

namespace train_sft::cli {
namespace {

// What is known of the data, from the files or from the sizes given instead.
struct DataSize {
  uint64_t rows = 0;
  uint64_t tokens = 0;               // real tokens of an epoch
  std::optional<DataReport> report;  // when the files were read
  int64_t vocab_size = 0;            // of the tokenizer; 0: not known
};

uint64_t kept_for_training(uint64_t examples, const TrainConfig& config) {
  if (!config.val_data.empty()) return examples;
  const auto held_out =
      static_cast<uint64_t>(std::ceil(config.val_split * static_cast<double>(examples)));
  return examples - std::min(held_out, examples);
}

DataSize size_from_numbers(const Invocation& invocation, const TrainConfig& config) {
  DataSize size;
  const auto block = static_cast<uint64_t>(config.block_size);
  if (invocation.has("dataset_tokens")) {
    size.tokens = static_cast<uint64_t>(invocation.integer("dataset_tokens"));
  }
  if (invocation.has("dataset_examples")) {
    const uint64_t examples =
        kept_for_training(static_cast<uint64_t>(invocation.integer("dataset_examples")), config);
    if (invocation.has("mean_tokens")) {
      size.tokens = static_cast<uint64_t>(
          static_cast<double>(examples) *
          std::min(invocation.number("mean_tokens"), static_cast<double>(config.block_size)));
    }
    const bool one_a_row = config.packing == "none" || config.packing == "auto";
    if (one_a_row || size.tokens == 0) {
      size.rows = examples;
    } else {
      size.rows = (size.tokens + block - 1) / block;  // packed without a gap
    }
    return size;
  }
  // A stream is cut into whole rows; packed examples fill their last row in part.
  size.rows =
      config.packing == "best_fit" ? (size.tokens + block - 1) / block : size.tokens / block;
  return size;
}

std::unique_ptr<Tokenizer> tokenizer_of_run(const TrainConfig& config) {
  const std::string& start =
      config.pretrained_model.empty() ? config.resume : config.pretrained_model;
  if (!config.tokenizer.empty()) return load_tokenizer(config.tokenizer);
  if (!start.empty() && start != "auto") return load_tokenizer(resolve_checkpoint(start));
  log::info("training the tokenizer, as the run would");
  TokenizerTraining training;
  training.type = config.tokenizer_type;
  if (config.model.vocab_size > 0) training.vocab_size = config.model.vocab_size;
  return tokenizer_from_model(train_tokenizer(load_documents(config), training), "the tokenizer");
}

DataSize size_from_files(const TrainConfig& config) {
  const auto tokenizer = tokenizer_of_run(config);
  DataSplit data = load_data(config, *tokenizer, *chat_template(config.chat_template));
  const RowTable rows(data.train, resolve_packing(config, data.train.is_text), config.block_size);
  add_rows(data.train.report, rows);
  DataSize size;
  size.rows = rows.size();
  size.tokens = static_cast<uint64_t>(std::llround(rows.fill() * static_cast<double>(rows.size()) *
                                                   static_cast<double>(config.block_size)));
  size.report = data.train.report;
  size.vocab_size = tokenizer->vocab_size();
  return size;
}

ModelConfig model_of_run(const TrainConfig& config, const DataSize& data, Json& warnings) {
  const std::string& start =
      config.pretrained_model.empty() ? config.resume : config.pretrained_model;
  if (!start.empty() && start != "auto") return read_model_config(resolve_checkpoint(start));
  ModelConfig model = config.model;
  model.block_size = config.block_size;
  if (data.vocab_size > 0 && (model.vocab_size == 0 || config.tokenizer.empty())) {
    model.vocab_size = data.vocab_size;
  }
  if (model.vocab_size == 0) {
    model.vocab_size = TokenizerTraining{}.vocab_size;
    warnings.push_back({{"id", "vocab_size_assumed"},
                        {"text", "The tokenizer is not known; its usual size is assumed."},
                        {"evidence", fmt::format("vocab_size {}", model.vocab_size)}});
  }
  validate(model);
  return model;
}

// Multiplications and additions of a step, forward and backward: 6 a weight of a matrix and token,
// and 12 × layers × width × sequence length a token for attention (Chowdhery et al. 2022, PaLM,
// appendix B; the causal half is not taken off).
double flops_per_step(const ModelConfig& model, const BatchShape& batch) {
  double weights = 0;
  for (const ParameterInfo& parameter : parameter_layout(model).parameters) {
    const bool looked_up = parameter.layer < 0 &&
                           !(parameter.shape.size() == 2 && parameter.shape[0] == model.vocab_size);
    if (parameter.shape.size() == 2 && !looked_up) weights += static_cast<double>(parameter.numel);
  }
  // Untied, the embedding is only looked up: one of the two matrices of vocabulary size counts.
  if (!model.tie_embeddings) {
    weights -= static_cast<double>(model.vocab_size) * static_cast<double>(model.n_embd);
  }
  const double attention = 12.0 * static_cast<double>(model.n_layer * model.n_embd) *
                           static_cast<double>(batch.block_size);
  return (6 * weights + attention) * static_cast<double>(batch.tokens_per_step());
}

Json rates(const TrainConfig& config, const RunShape& run) {
  const Schedule schedule = make_schedule(config, run);
  Json at = Json::object();
  std::vector<int64_t> steps{0, run.warmup_iters - 1, run.warmup_iters + run.plateau_iters - 1,
                             run.max_iters / 2, run.max_iters - 1};
  std::sort(steps.begin(), steps.end());
  for (const int64_t step : steps) {
    if (step >= 0 && step < run.max_iters) at[std::to_string(step)] = schedule.lr(step);
  }
  return at;
}

int64_t interval_of_saves(const TrainConfig& config) {
  if (config.save_interval > 0) return config.save_interval;
  return config.eval_interval > 0 ? config.eval_interval : 1000;
}

void add_files(Json& plan, const TrainConfig& config, const RunShape& run, int64_t params) {
  const int64_t checkpoints = (run.max_iters - 1) / interval_of_saves(config) + 1;
  const bool bf16 = config.precision == "bf16";
  const int64_t weight_bytes = (bf16 ? 2 : 4) * params;
  // In fp32 the weights are the masters; else masters stand beside the moments.
  const int64_t state_bytes = (bf16 ? 12 : 8) * params;
  const int64_t kept = config.keep == 0 ? checkpoints : std::min(checkpoints, config.keep + 1);
  const int64_t with_state = std::min(kept, config.keep_optimizer + 1);
  plan["checkpoints"] = checkpoints;
  plan["checkpoint_bytes"] = weight_bytes;
  plan["storage_bytes"] = {{"weights", weight_bytes * kept},
                           {"optimizer", state_bytes * with_state}};
  plan["memory_bytes"] = {{"parameters", 4 * params},
                          {"compute_copy", bf16 ? 2 * params : 0},
                          {"gradients", 4 * params},
                          {"optimizer", 8 * params}};
}

void warn_about_length(const RunShape& run, Json& warnings) {
  if (run.max_iters < run.steps_per_epoch) {
    warnings.push_back(
        {{"id", "partial_epoch"},
         {"text", fmt::format("The run ends before it has seen all data: {:.0f} % of it.",
                              100 * run.epochs())},
         {"evidence", fmt::format("{} of {} steps an epoch", run.max_iters, run.steps_per_epoch)}});
  }
}

void warn_about_data(const DataReport& report, Json& warnings) {
  if (report.truncated * 100 > report.examples) {
    warnings.push_back({{"id", "truncated"},
                        {"text", "More than one example in a hundred is cut to block_size."},
                        {"evidence", fmt::format("{} of {} examples, {} tokens", report.truncated,
                                                 report.examples, report.truncated_tokens)}});
  }
  if (report.duplicates * 100 > report.examples) {
    warnings.push_back(
        {{"id", "duplicates"},
         {"text", "More than one example in a hundred repeats an earlier one."},
         {"evidence", fmt::format("{} of {} examples", report.duplicates, report.examples)}});
  }
}

Json make_plan(const TrainConfig& config, const DataSize& data) {
  Json warnings = Json::array();
  const ModelConfig model = model_of_run(config, data, warnings);
  const BatchShape batch = resolve_batch(config, config.gpus);
  const RunShape run = resolve_run(config, batch, data.rows);
  const int64_t params = parameter_layout(model).count();

  Json plan;
  plan["params"] = params;
  plan["rows_per_epoch"] = data.rows;
  plan["tokens_per_epoch"] = data.tokens;
  if (data.report) {
    plan["learned_tokens"] = data.report->learned_tokens;
    plan["fill"] = data.report->fill;
    plan["truncated"] = data.report->truncated;
    uint64_t dropped = 0;
    for (const auto& [reason, count] : data.report->dropped) dropped += count;
    plan["dropped"] = dropped;
  }
  plan["tokens_per_step"] = batch.tokens_per_step();
  plan["examples_per_step"] = batch.rows_per_step();
  plan["grad_accum"] = batch.grad_accum;
  plan["steps_per_epoch"] = run.steps_per_epoch;
  plan["max_iters"] = run.max_iters;
  plan["epochs"] = run.epochs();
  plan["warmup_iters"] = run.warmup_iters;
  plan["plateau_iters"] = run.plateau_iters;
  plan["decay_iters"] = run.decay_iters;
  plan["peak_lr"] = run.peak_lr;
  plan["min_lr"] = run.min_lr;
  plan["lr_at"] = rates(config, run);
  plan["flops_per_step"] = flops_per_step(model, batch);
  add_files(plan, config, run, params);
  warn_about_length(run, warnings);
  if (data.report) warn_about_data(*data.report, warnings);
  plan["warnings"] = std::move(warnings);
  return plan;
}

void print(const Json& plan) {
  const auto number = [&](const char* key) { return plan[key].get<double>(); };
  fmt::print("model      {} parameters\n", human_count(number("params")));
  fmt::print("data       {} rows an epoch, {} tokens", plan["rows_per_epoch"].dump(),
             human_count(number("tokens_per_epoch")));
  if (plan.contains("fill")) fmt::print(", {:.1f} % full", 100 * number("fill"));
  fmt::print("\nstep       {} rows, up to {} tokens (grad_accum {})\n",
             plan["examples_per_step"].dump(), plan["tokens_per_step"].dump(),
             plan["grad_accum"].dump());
  fmt::print("length     {} steps = {:.3f} epochs of {} steps\n", plan["max_iters"].dump(),
             number("epochs"), plan["steps_per_epoch"].dump());
  fmt::print("schedule   warm-up {}, plateau {}, decay {}; {:g} to {:g}\n",
             plan["warmup_iters"].dump(), plan["plateau_iters"].dump(), plan["decay_iters"].dump(),
             number("peak_lr"), number("min_lr"));
  fmt::print("compute    {:.3g} FLOP a step\n", number("flops_per_step"));
  double memory = 0, storage = 0;
  for (const auto& part : plan["memory_bytes"]) memory += part.get<double>();
  for (const auto& part : plan["storage_bytes"]) storage += part.get<double>();
  fmt::print("memory     {} for weights, gradients and optimizer (activations come on top)\n",
             human_bytes(memory));
  fmt::print("storage    {} checkpoints of {} weights; {} kept in all\n",
             plan["checkpoints"].dump(), human_bytes(number("checkpoint_bytes")),
             human_bytes(storage));
  for (const Json& warning : plan["warnings"]) {
    fmt::print("warning    {} ({})\n", warning["text"].get<std::string>(),
               warning["evidence"].get<std::string>());
  }
}

// "max_iters=2000,2300" → the settings with each of the values.
std::vector<std::pair<std::string, Settings>> compared(const Settings& settings,
                                                       const std::string& spec) {
  const size_t equals = spec.find('=');
  const Option* option = equals == spec.npos ? nullptr : find_option(spec.substr(0, equals));
  if (option == nullptr) {
    throw UsageError(
        "compare: '{}' is not valid, expected an option and its values, such as "
        "max_iters=2000,2300",
        spec);
  }
  std::vector<std::pair<std::string, Settings>> variants;
  for (size_t at = equals + 1; at <= spec.size();) {
    const size_t comma = std::min(spec.find(',', at), spec.size());
    const std::string value = spec.substr(at, comma - at);
    Settings variant = settings;
    variant.set(option->name, parse_option_text(*option, value), "--compare");
    validate(variant);
    variants.emplace_back(option->name + "=" + value, std::move(variant));
    at = comma + 1;
  }
  return variants;
}

DataSize data_of_run(const Invocation& invocation, const TrainConfig& config) {
  const bool by_tokens = invocation.has("dataset_tokens");
  const bool by_examples = invocation.has("dataset_examples");
  if (by_tokens && by_examples) {
    throw UsageError(
        "dataset_tokens contradicts dataset_examples: both say how much data there is; "
        "give dataset_examples with mean_tokens");
  }
  if (by_tokens || by_examples) return size_from_numbers(invocation, config);
  if (config.data.empty()) {
    throw UsageError(
        "no data given: add --data FILE, or its size by --dataset_tokens N or "
        "--dataset_examples N --mean_tokens N");
  }
  return size_from_files(config);
}

Outcome run(const Invocation& invocation) {
  const Settings& settings = invocation.settings;
  validate(settings);
  std::vector<std::pair<std::string, Settings>> variants{{"", settings}};
  if (invocation.has("compare")) variants = compared(settings, invocation.text("compare"));
  Json result;
  for (const auto& [name, variant] : variants) {
    Json plan = make_plan(variant.config, data_of_run(invocation, variant.config));
    if (!settings.config.json) {
      if (!name.empty()) fmt::print("-- {}\n", name);
      print(plan);
    }
    if (name.empty()) {
      result = std::move(plan);
    } else {
      result["compare"][name] = std::move(plan);
    }
  }
  return {ExitCode::ok, std::move(result)};
}

}  // namespace

Command plan_command() {
  Command command;
  command.name = "plan";
  command.summary = "Says what a run would do; trains no model.";
  command.examples = {
      "train_sft plan --config instruct_alpaca --data alpaca.json",
      "train_sft plan --config instruct_alpaca --dataset_examples 52002 --mean_tokens 120 "
      "--compare max_iters=2000,2300,3100,3900",
      "train_sft plan --config gpt2_124m --dataset_tokens 9e9 --json",
  };
  command.own_options = {
      own_option("dataset_tokens", "int", nullptr, "Tokens to train on, instead of --data", 1,
                 9e15),
      own_option("dataset_examples", "int", nullptr,
                 "Examples, validation included, instead of --data", 1, 9e15),
      own_option("mean_tokens", "float", nullptr, "Their mean length", 1, 1e9),
      own_option("compare", "string", nullptr, "OPTION=A,B,…: a plan for each value"),
  };
  command.shared = {"*"};
  command.reads_files = true;
  command.run = run;
  return command;
}

}  // namespace train_sft::cli
