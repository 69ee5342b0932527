#include "train_sft/plan/plan.h"

#include <algorithm>
#include <cmath>

#include "plan/facts.h"
#include "train_sft/base/error.h"
#include "train_sft/base/file.h"
#include "train_sft/base/memory.h"
#include "train_sft/text/tokenizer.h"
#include "train_sft/train/checkpoint.h"
#include "train_sft/train/micro_batch.h"
#include "train_sft/train/schedule.h"

namespace train_sft {
namespace {

ModelConfig model_of_run(const TrainConfig& config, const DataSize& data) {
  const std::string& start =
      config.pretrained_model.empty() ? config.resume : config.pretrained_model;
  if (!start.empty() && start != "auto") return read_model_config(resolve_checkpoint(start));
  ModelConfig model = config.model;
  model.block_size = config.block_size;
  if (data.vocab_size > 0 && (model.vocab_size == 0 || config.tokenizer.empty()))
    model.vocab_size = data.vocab_size;
  if (model.vocab_size == 0) model.vocab_size = TokenizerTraining{}.vocab_size;
  validate(model);
  return model;
}

std::string precision_of_run(const PlanRequest& request) {
  const TrainConfig& config = request.settings.config;
  return request.on && config.precision == "auto" ? "bf16" : resolve_precision(config);
}

int64_t interval_of_saves(const PlanFacts& facts) {
  if (facts.config().save_interval > 0) return facts.config().save_interval;
  return facts.evaluations > 0 ? facts.config().eval_interval : kDefaultSaveInterval;
}

// Periodic ones and that of the last step, which may be the same.
int64_t times_due(int64_t max_iters, int64_t interval) {
  return (max_iters - 1) / interval + 1;
}

uint64_t data_bytes(const PlannedData* data) {
  if (data == nullptr) return 0;
  uint64_t bytes = 0;
  for (const Dataset* part : {&data->split.train, &data->split.validation}) {
    bytes += part->tokens.size() * sizeof(int32_t) + part->weights.size() * sizeof(float);
    bytes += part->size() * 3 * sizeof(uint64_t);
  }
  return bytes;
}

double mean_row_tokens(const PlanFacts& facts) {
  return static_cast<double>(facts.size().tokens) / static_cast<double>(facts.run.rows);
}

// Of the largest piece of an epoch; nothing when rows are full or too many to look at.
std::function<int64_t(int64_t)> largest_tokens(const PlanFacts& facts) {
  constexpr uint64_t kRowsLookedAt = 200'000;
  const PlannedData* data = facts.request.data;
  if (data == nullptr || facts.size().is_text || facts.size().rows > kRowsLookedAt) return {};
  return [&facts, data](int64_t piece) {
    const RowOrder order(data->rows->size(), static_cast<uint64_t>(facts.config().seed), true,
                         facts.batch.rows_per_step());
    const auto steps =
        std::min<uint64_t>(static_cast<uint64_t>(facts.run.max_iters), order.steps_per_epoch());
    return largest_piece_tokens(*data->rows, order, facts.batch, piece, 0, steps);
  };
}

uint64_t memory_limit(const PlanRequest& request, uint64_t available) {
  const TrainConfig& config = request.settings.config;
  return resolve_max_memory(config, request.on ? available : available + resident_bytes());
}

void plan_memory_of_run(PlanFacts& facts) {
  const TrainConfig& config = facts.config();
  const double share = facts.sharded() ? largest_shard(facts) : 1;
  // A device has its own; the processes of a machine share what is free.
  const auto available =
      facts.request.on ? static_cast<uint64_t>(facts.request.on->device.memory_bytes)
                       : available_memory_bytes() / static_cast<uint64_t>(facts.request.processes);
  facts.available_memory = available;
  facts.max_memory = memory_limit(facts.request, available);
  const bool on_device = facts.request.on.has_value();
  if (on_device) facts.place = device_memory_place(facts.max_memory);
  const MicroBatchNeeds needs{
      .model = facts.model,
      .config = config,
      .batch = facts.batch,
      .precision = facts.precision,
      .threads = facts.threads,
      .limit = facts.max_memory,
      // Those are in the host's memory; a shared state is not copied.
      .program = on_device ? 0 : facts.request.program_bytes,
      .data = on_device ? 0 : data_bytes(facts.request.data),
      .checkpoint_copy = on_device || facts.sharded()
                             ? 0
                             : checkpoint_copy_bytes(facts.model, config, facts.precision),
      .optimizer_share = share,
      .masters_share = shares_masters(facts) ? share : 1,
      .rounded_gradients = rounded_gradient_bytes(facts.model, config, facts.cluster.ranks()),
      .place = facts.place,
      .mean_row_tokens = mean_row_tokens(facts),
      .largest_tokens = largest_tokens(facts)};
  // A run that does not fit is planned as it is set, or row by row.
  MicroBatch chosen = choose_micro_batch(needs);
  if (chosen.rows == 0) {
    chosen.rows = config.batch_size_auto ? 1 : facts.batch.batch_size;
    chosen.tokens = needs.tokens(chosen.rows);
  }
  facts.micro_rows = chosen.rows;
  facts.micro_batch_tokens = chosen.tokens;
  facts.memory = needs.memory(chosen.tokens);
  if (!on_device) facts.memory.gradients -= needs.gradients_in_turn(chosen);
  facts.optimizer_bytes = static_cast<double>(facts.memory.optimizer) / share;
  const double masters =
      shares_masters(facts) ? static_cast<double>(facts.memory.parameters) / share : 0;
  const auto elsewhere = static_cast<uint64_t>((facts.optimizer_bytes + masters) * (1 - share));
  const uint64_t beside =
      facts.memory.program + facts.memory.data + facts.memory.checkpoint_copy + kMemoryAllowance;
  facts.largest_batch = largest_batch(
      facts.model, config, facts.precision, facts.threads,
      facts.max_memory > beside ? facts.max_memory - beside + elsewhere : 0, facts.place);
}

double mean_step_tokens(const PlanFacts& facts) {
  return mean_row_tokens(facts) * static_cast<double>(facts.run.rows_per_step);
}

// Of each process: those of this machine share its cores.
int64_t threads_of_process(const PlanRequest& request) {
  const TrainConfig& config = request.settings.config;
  const int64_t threads = resolve_threads(config);
  if (config.threads > 0 || request.on) return threads;
  return std::max<int64_t>(1, threads / request.processes);
}

// One process's part of a step is measured: all of them compute at the same time.
StepTime measure_time(const PlanFacts& facts) {
  const PlanRequest& request = facts.request;
  Probe probe{
      .model = facts.model,
      .config = facts.config(),
      .micro_rows = facts.micro_rows,
      .precision = facts.precision,
      .threads = facts.threads,
      .steps = request.probe_steps,
      .mean_step_tokens = mean_step_tokens(facts) / static_cast<double>(facts.cluster.ranks()),
      .available_bytes = facts.available_memory,
      .updated_share = facts.sharded() ? largest_shard(facts) : 1};
  std::optional<RowOrder> order;
  if (request.data != nullptr) {
    order.emplace(facts.run.rows, static_cast<uint64_t>(facts.config().seed), true,
                  facts.run.rows_per_step);
    probe.micro_batch = [&](int64_t i) {
      return make_batch(*request.data->rows, *order, static_cast<uint64_t>(i),
                        StepRows{0, static_cast<uint64_t>(facts.micro_rows)});
    };
  }
  return measure_step(probe);
}

void plan_time(PlanFacts& facts) {
  const PlanRequest& request = facts.request;
  const double tokens = mean_step_tokens(facts);
  facts.flops_per_step = flops_per_token(facts.model, facts.batch.block_size) *
                         static_cast<double>(facts.batch.tokens_per_step());
  if (request.on) {
    Devices all = *request.on;
    all.count *= request.nodes;
    facts.time = predict_step(all, facts.precision, facts.flops_per_step);
  } else if (request.probe_steps > 0) {
    facts.time = measure_time(facts);
  }
  plan_communication(facts);
  if (facts.time.step_ms == 0) return;
  double tokens_evaluated = static_cast<double>(facts.size().validation_tokens);
  if (facts.config().eval_batches > 0)
    tokens_evaluated = std::min(
        tokens_evaluated, static_cast<double>(facts.config().eval_batches *
                                              facts.config().batch_size * facts.batch.block_size));
  facts.evaluation_s = facts.time.evaluate_ms * 1e-3 * tokens_evaluated / tokens;
  facts.total_s = facts.time.step_ms * 1e-3 * static_cast<double>(facts.run.max_iters) +
                  facts.evaluation_s * static_cast<double>(facts.evaluations);
}

Json params_by_part(const ModelConfig& model) {
  Json parts{{"embedding", 0}, {"attention", 0}, {"feed_forward", 0}, {"norms", 0}, {"head", 0}};
  const auto part_of = [](const ParameterInfo& parameter) {
    const std::string& name = parameter.name;
    const auto has = [&](const char* piece) { return name.find(piece) != name.npos; };
    if (has("lm_head")) return "head";
    if (parameter.layer < 0 && parameter.shape.size() == 2) return "embedding";
    if (has("ln_") || has("norm")) return "norms";
    return has("attn") ? "attention" : "feed_forward";
  };
  for (const ParameterInfo& parameter : parameter_layout(model).parameters) {
    Json& part = parts[part_of(parameter)];
    part = part.get<int64_t>() + parameter.numel;
  }
  return parts;
}

Json rates_at_milestones(const Schedule& schedule, const RunShape& run) {
  Json at = Json::object();
  std::vector<int64_t> steps{0, run.warmup_iters - 1, run.warmup_iters + run.plateau_iters - 1,
                             run.max_iters / 2, run.max_iters - 1};
  std::sort(steps.begin(), steps.end());
  for (const int64_t step : steps)
    if (step >= 0 && step < run.max_iters) at[std::to_string(step)] = schedule.lr(step);
  return at;
}

Json rate_curve(const Schedule& schedule, const RunShape& run) {
  constexpr int64_t kPoints = 60;
  Json curve = Json::array();
  for (int64_t i = 0; i < kPoints; ++i)
    curve.push_back(schedule.lr(i * (run.max_iters - 1) / (kPoints - 1)));
  return curve;
}

// Null for the CPU.
Json device_json(const PlanFacts& facts) {
  if (!facts.request.on) return {};
  const DeviceRates& device = facts.request.on->device;
  const double peak = device.peak_flops(facts.precision);
  return {{"name", device.description},
          {"count", facts.request.on->count},
          {"memory_bytes", device.memory_bytes},
          {"peak_flops", peak > 0 ? Json(peak) : Json()}};
}

void add_data(Json& plan, const PlanFacts& facts) {
  const DataSize& size = facts.size();
  plan["rows_per_epoch"] = size.rows;
  plan["tokens_per_epoch"] = size.tokens;
  plan["validation_rows"] = size.validation_rows;
  if (size.is_text && size.tokens > static_cast<uint64_t>(facts.batch.block_size))
    plan["rows_at_stride_1"] = size.all_tokens - static_cast<uint64_t>(facts.batch.block_size);
  if (!size.report) return;
  const DataReport& report = *size.report;
  uint64_t dropped = 0;
  for (const auto& [reason, count] : report.dropped) dropped += count;
  plan["learned_tokens"] = report.learned_tokens;
  plan["fill"] = report.fill;
  plan["truncated"] = report.truncated;
  plan["dropped"] = dropped;
  plan["duplicates"] = report.duplicates;
  plan["tail_tokens"] = report.tail_tokens;
}

void add_length(Json& plan, const PlanFacts& facts) {
  const RunShape& run = facts.run;
  const auto tokens = static_cast<double>(facts.size().tokens);
  plan["tokens_per_step"] = facts.batch.tokens_per_step();
  plan["examples_per_step"] = facts.batch.rows_per_step();
  plan["grad_accum"] = facts.batch.grad_accum;
  plan["micro_batch_rows"] = facts.micro_rows;
  plan["steps_per_epoch"] = run.steps_per_epoch;
  plan["steps_per_epoch_if_full"] = tokens / static_cast<double>(facts.batch.tokens_per_step());
  plan["max_iters"] = run.max_iters;
  plan["epochs"] = run.epochs();
  plan["tokens_total"] = facts.tokens_total();
  plan["rows_total"] = run.epochs() * static_cast<double>(run.rows);
  Json& iters = plan["iters_for_epochs"];
  for (int epochs = 1; epochs <= 5; ++epochs)
    iters[std::to_string(epochs)] = epochs * run.steps_per_epoch;
}

void add_schedule(Json& plan, const PlanFacts& facts) {
  const Schedule schedule = make_schedule(facts.config(), facts.run);
  plan["warmup_iters"] = facts.run.warmup_iters;
  plan["plateau_iters"] = facts.run.plateau_iters;
  plan["decay_iters"] = facts.run.decay_iters;
  plan["peak_lr"] = facts.run.peak_lr;
  plan["min_lr"] = facts.run.min_lr;
  plan["lr_schedule"] = schedule.kind;
  plan["lr_at"] = rates_at_milestones(schedule, facts.run);
  plan["lr_curve"] = rate_curve(schedule, facts.run);
}

void add_storage(Json& plan, PlanFacts& facts) {
  const TrainConfig& config = facts.config();
  facts.checkpoints = times_due(facts.run.max_iters, interval_of_saves(facts));
  const bool bf16 = facts.precision != "fp32";
  const bool adapts = config.lora_rank > 0;  // stored: the adapters alone, as their masters
  const int64_t trained = parameter_layout(facts.model, training_of(config)).trained_count();
  const int64_t weights = adapts ? 4 * trained : (bf16 ? 2 : 4) * facts.params;
  // In fp32 the weights are the masters; else masters stand beside the moments.
  const int64_t state = (bf16 && !adapts ? 12 : 8) * trained;
  const int64_t kept =
      config.keep == 0 ? facts.checkpoints : std::min(facts.checkpoints, config.keep + 1);
  const int64_t with_state = std::min(kept, config.keep_optimizer + 1);
  const int64_t token_bytes = facts.model.vocab_size <= 65536 ? 2 : 4;
  plan["checkpoints"] = facts.checkpoints;
  plan["checkpoint_bytes"] = weights;
  Json& storage = plan["storage_bytes"];
  storage = {{"weights", weights * kept},
             {"optimizer", state * with_state},
             {"token_cache", token_bytes * static_cast<int64_t>(facts.size().all_tokens)}};
  for (const Json& part : storage) facts.storage_bytes += part.get<uint64_t>();
  facts.free_disk_bytes = free_bytes_at(config.out_dir.empty() ? "." : config.out_dir);
  plan["free_disk_bytes"] = facts.free_disk_bytes;
}

void add_cost(Json& plan, const PlanFacts& facts) {
  const auto known = [](double value) { return value > 0 ? Json(value) : Json(); };
  plan["flops_per_step"] = facts.flops_per_step;
  plan["step_ms"] = known(facts.time.step_ms);
  plan["step_ms_at_peak"] = known(facts.time.step_ms_at_peak);
  plan["total_s_at_peak"] =
      known(facts.time.step_ms_at_peak * 1e-3 * static_cast<double>(facts.run.max_iters));
  plan["tokens_per_s"] =
      facts.time.step_ms > 0 ? Json(mean_step_tokens(facts) / facts.time.step_ms * 1e3) : Json();
  plan["time_basis"] = facts.time.basis;
  plan["communication"] = communication_json(facts);
  plan["evaluations"] = facts.evaluations;
  plan["evaluation_s"] = known(facts.evaluation_s);
  plan["total_s"] = known(facts.total_s);
  plan["memory_bytes"] = to_json(facts.memory);
  plan["available_memory_bytes"] = facts.available_memory;
  plan["max_memory_bytes"] = facts.max_memory;
  plan["largest_batch_size"] = facts.largest_batch;
}

// Memory and time with each kind of recomputation, this run's own included.
void add_recompute(Json& plan, const PlanFacts& facts) {
  TrainConfig config = facts.config();
  const auto part = [&](const std::string& kind) {
    return recomputed_part(facts.model, facts.batch.block_size, parse_recompute(kind));
  };
  const double now = part(facts.config().recompute);
  for (const char* kind : {"none", "attention", "block"}) {
    config.recompute = kind;
    MemoryPlan memory = plan_memory(facts.model, config, facts.precision, facts.threads,
                                    facts.micro_batch_tokens, facts.place);
    if (!facts.request.on && facts.micro_rows >= facts.batch.rows_per_step())
      memory.gradients -=
          gradients_in_turn(facts.model, config, facts.precision, facts.micro_batch_tokens);
    const double step_ms = facts.time.step_ms + facts.time.evaluate_ms * (part(kind) - now);
    plan["recompute"][kind] = {
        {"memory_bytes",
         memory.total() + facts.memory.data + facts.memory.checkpoint_copy + facts.memory.program},
        {"step_ms", facts.time.step_ms > 0 ? Json(step_ms) : Json()}};
  }
}

}  // namespace

Json make_plan(const PlanRequest& request) {
  const TrainConfig& config = request.settings.config;
  PlanFacts facts{.request = request};
  facts.model = model_of_run(config, request.size);
  facts.batch = resolve_batch(config, config.gpus);
  facts.cluster = cluster_of(request);
  facts.run = resolve_run(config, facts.batch, request.size.rows);
  facts.precision = precision_of_run(request);
  facts.threads = threads_of_process(request);
  facts.params = parameter_layout(facts.model).count();
  if (config.eval_interval > 0 && request.size.validation_rows > 0)
    facts.evaluations = times_due(facts.run.max_iters, config.eval_interval);

  plan_memory_of_run(facts);

  Json plan;
  plan["params"] = facts.params;
  plan["params_by_part"] = params_by_part(facts.model);
  plan["precision"] = facts.precision;
  plan["device"] = device_json(facts);
  add_data(plan, facts);
  add_length(plan, facts);
  add_schedule(plan, facts);
  add_storage(plan, facts);
  plan_time(facts);
  add_cost(plan, facts);
  add_recompute(plan, facts);
  plan["warnings"] = plan_warnings(facts);
  return plan;
}

}  // namespace train_sft
