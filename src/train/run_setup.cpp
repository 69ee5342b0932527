#include "train/run_setup.h"

#include <ATen/Parallel.h>
#include <c10/util/Exception.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <thread>

#include "train/adapter_checkpoint.h"
#include "train/checkpoint_files.h"
#include "train/ranks.h"
#include "train/run_card.h"
#include "train_sft/base/error.h"
#include "train_sft/base/log.h"
#include "train_sft/base/memory.h"
#include "train_sft/base/signals.h"
#include "train_sft/collective/agreement.h"
#include "train_sft/config/fp8_settings.h"
#include "train_sft/model/parameters.h"
#include "train_sft/ops/load_device.h"

namespace train_sft {
namespace {

// Decided once: the state keeps them, and a resume uses the same, because the bits of a sum depend
// on the number of threads.
ops::ChosenDevice choose_machine(Run& run) {
  const TrainConfig& config = run.config();
  const auto& saved = run.start.state;
  const ProcessPlace& place = run.collective.place();
  const ops::ChosenDevice chosen = device_of_rank(run);
  if (!chosen.said.empty()) log::info("{}", chosen.said);
  run.device = chosen.device;
  run.state.precision = resolve_precision(config);
  if (!run.device.is_cpu() && config.precision == "auto") run.state.precision = "bf16";
  run.state.threads = config.threads == 0 && place.world_size > 1 ? cores_of_process(place)
                                                                  : resolve_threads(config);
  run.state.processes = place.world_size;
  if (saved) {
    if (config.precision != "auto" && config.precision != saved->precision)
      throw UsageError(
          "precision: {} now and {} when the checkpoint was made; leave it out, or "
          "start from its weights with --fresh_schedule",
          config.precision, saved->precision);
    run.state.precision = saved->precision;
    if (saved->processes != run.state.processes)
      log::info("{} processes now and {} when the checkpoint was made; sums round differently",
                run.state.processes, saved->processes);
    else if (config.threads == 0)
      run.state.threads = saved->threads;
    else if (config.threads != saved->threads)
      log::warning("threads: {} now and {} when the checkpoint was made; sums round differently",
                   config.threads, saved->threads);
  }
  if (run.state.precision == "fp8" && !chosen.fp8)
    throw UsageError(
        "precision fp8: {} has no 8-bit products; use --precision bf16, or a GPU of compute "
        "capability 8.9 or more",
        run.device.is_cpu() ? "the CPU" : run.device.str());
  at::set_num_threads(static_cast<int>(run.state.threads));
  return chosen;
}

void prepare_data(Run& run) {
  run.data = load_data(run.config(), *run.tokenizer, *run.chat_template);
  const bool is_text = run.data.train.is_text;
  const Packing packing = resolve_packing(run.config(), is_text);
  const auto rows_of = [&](Dataset& data, std::optional<RowTable>& rows) {
    rows.emplace(data, packing, run.config().block_size);
    add_rows(data.report, *rows);
  };
  rows_of(run.data.train, run.train_rows);
  if (run.data.validation.size() > 0) rows_of(run.data.validation, run.validation_rows);
  // Text shorter than a row: nothing to evaluate on.
  if (run.validation_rows && run.validation_rows->size() == 0) run.validation_rows.reset();
  run.eval_sets = load_eval_sets(run.config(), *run.tokenizer, *run.chat_template);
  std::string& tensorboard_dir = run.settings.config.tensorboard_dir;
  if (tensorboard_dir.empty()) tensorboard_dir = is_text ? "runs" : "runs_instruct";
}

// Same rows in the same steps, or it is not the same run.
void check_same_data(Run& run, int64_t recorded_rows_per_step) {
  const auto& saved = *run.start.state;
  const auto require = [&](const char* what, const auto& now, const auto& then) {
    if (now == then) return;
    if (!run.config().overwrite_data_check)
      throw CheckpointError(
          "{}: the {} changed since the checkpoint was made ({} now, {} then); "
          "restore it, or go on all the same with --overwrite_data_check",
          run.start.checkpoint, what, now, then);
    log::warning(
        "the {} changed since the checkpoint was made ({} now, {} then); going on as asked", what,
        now, then);
    run.state.data_step = 0;  // the place in another order means nothing
  };
  require("training data", run.state.data_fingerprint, saved.data_fingerprint);
  require("tokenizer", run.state.tokenizer_fingerprint, saved.tokenizer_fingerprint);
  require("number of rows a step (batch_size × grad_accum × gpus)", run.batch.rows_per_step(),
          recorded_rows_per_step);
}

void prepare_batches(Run& run) {
  run.batch = resolve_batch(run.config(), batch_ranks(run));
  check_shares(run);
  run.shape = resolve_run(run.config(), run.batch, run.train_rows->size());
  run.order.emplace(run.train_rows->size(), static_cast<uint64_t>(run.config().seed), true,
                    run.batch.rows_per_step());
  run.state.data_fingerprint = run.data.train.fingerprint();
  run.state.tokenizer_fingerprint = run.tokenizer->fingerprint();
}

// With --shard optimizer the part that is this process's; none: all of them.
std::optional<TrainedPart> own_masters(const Run& run, at::ScalarType compute) {
  const int processes = run.collective.size();
  if (run.config().shard != "optimizer" || processes == 1) return {};
  const ParameterLayout layout =
      parameter_layout(run.settings.config.model, training_of(run.config()));
  if (!shares_masters(layout, compute != at::kFloat)) return {};
  const ShardLimits limits = shard_limits(layout, processes);
  const auto rank = static_cast<size_t>(run.collective.rank());
  return TrainedPart{limits[rank], limits[rank + 1]};
}

void prepare_model(Run& run) {
  ModelConfig& model = run.settings.config.model;
  if (run.start.kind == StartKind::fresh) model.block_size = run.config().block_size;
  validate(model);
  const auto compute = run.state.precision == "fp32" ? at::kFloat : at::kBFloat16;
  const TrainConfig& config = run.config();
  const Training training = training_of(config);
  if (training.adapts() && run.start.kind == StartKind::fresh)
    throw UsageError("lora_rank: there is no model to adapt; add --pretrained_model PATH");
  run.parameters = std::make_unique<Parameters>(model, at::kFloat, compute, true, training,
                                                run.device, own_masters(run, compute));
  run.shards = std::make_unique<OptimizerShards>(run.collective, *run.parameters,
                                                 config.shard == "optimizer");
  if (run.shards->shared() && config.histogram_interval > 0)
    throw UsageError(
        "histogram_interval: with shard optimizer no process has all gradients; leave one of them "
        "out");
  run.optimizer =
      std::make_unique<Optimizer>(*run.parameters, optimizer_options(config), run.shards->own());
  run.reduction = std::make_unique<GradientReduction>(run.collective, *run.parameters,
                                                      run.shards->limits(), reduce_type(config));
}

Fp8Options fp8_options(const Run& run) {
  const TrainConfig& config = run.config();
  Fp8Options options;
  options.on = run.state.precision == "fp8";
  options.history = fp8_history(config);
  options.margin = config.fp8_margin;
  options.e5m2_gradients = config.fp8_gradients == "e5m2";
  options.weight_gradient = config.fp8_weight_gradient;
  options.bf16 = bf16_linears(config, config.model.n_layer);
  return options;
}

void prepare_engine(Run& run, EngineOptions engine) {
  const TrainConfig& config = run.config();
  engine.dropout = config.dropout;
  engine.seed = static_cast<uint64_t>(config.seed);
  engine.recompute = parse_recompute(config.recompute);
  engine.fp8 = fp8_options(run);
  run.engine = std::make_unique<Engine>(*run.parameters, engine);
  run.reduction->add_amax(run.engine->fp8_amax());
  if (engine.fp8.on && run.engine->fp8_state().empty())
    log::warning(
        "precision fp8: no linear layer of this model has 8-bit operands (fp8_bf16 {}; those of "
        "sizes that are no multiples of 16 never do): the run computes in bf16",
        config.fp8_bf16.empty() ? "first,last"
                                : fmt::format("{}", fmt::join(config.fp8_bf16, ",")));
}

// Weights, moments and state of the start; the schedule that follows from them.
void restore(Run& run) {
  const std::string& checkpoint = run.start.checkpoint;
  switch (run.start.kind) {
    case StartKind::fresh:
      initialise(*run.parameters, static_cast<uint64_t>(run.config().seed));
      break;
    case StartKind::weights:
      initialise_adapters(*run.parameters, static_cast<uint64_t>(run.config().seed));
      load_weights(checkpoint, *run.parameters);
      if (run.parameters->training().adapts()) {
        run.state.base_model = base_of(checkpoint);
        run.state.base_checksum = checksum_of_model(run.state.base_model);
      }
      break;
    case StartKind::resume:
    case StartKind::extend: {
      const TrainState now = run.state;
      run.state = load_training(checkpoint, *run.parameters, *run.optimizer);
      load_fp8_state(checkpoint, *run.engine);
      const int64_t recorded_rows = run.state.rows_per_step;
      run.state.data_fingerprint = now.data_fingerprint;
      run.state.tokenizer_fingerprint = now.tokenizer_fingerprint;
      run.state.threads = now.threads;
      run.state.processes = now.processes;
      keep_memory_choices(run.state, now);
      check_same_data(run, recorded_rows);
      if (run.start.kind == StartKind::extend) {  // a new schedule, a new chance
        run.state.lr_scale = 1;
        run.state.rollbacks = 0;
      }
      break;
    }
  }
  run.state.rows_per_step = run.batch.rows_per_step();
  if (run.start.kind == StartKind::resume) {
    run.schedule = schedule_from_json(run.state.schedule, checkpoint);
    run.shape.max_iters = run.schedule.max_iters;
  } else {
    const bool extends = run.start.kind == StartKind::extend;
    run.schedule = make_schedule(run.config(), run.shape, extends ? run.state.step : 0);
  }
  run.state.schedule = to_json(run.schedule);
  run.state.settings = to_json(run.settings);
}

}  // namespace

bool Run::evaluates() const {
  return validation_rows.has_value() && config().eval_interval > 0;
}

double Run::epoch() const {
  const auto rows = static_cast<double>(order->rows_before(static_cast<uint64_t>(state.data_step)));
  return rows / static_cast<double>(train_rows->size());
}

namespace {

// What the run will write to is made ready; nothing is before all ranks know that they can start.
void open_files(Run& run) {
  supersede_checkpoints_after(run.out_dir, run.state.step);
  if (run.start.state && run.start.kind != StartKind::weights) {
    const bool has_best = run.evaluates() && run.state.best_step >= 0;
    checkpoint_files::point_links(run.out_dir, run.state.step,
                                  has_best ? run.state.best_step : run.state.step);
  }
  write_run_config(run);
  open_records(run);
  log_run(run);
  write_run_card(run);
}

void plan(Run& run, const Settings& given) {
  run.start = plan_start(given);
  run.settings = run.start.settings;
  run.out_dir = run.config().out_dir;
  if (run.writes()) run.on_event = given.config.on_event;
  run.on_cpus = given.config.procs > 1;
  require_data(run.settings);
}

}  // namespace

std::unique_ptr<Run> set_up_run(const Settings& given, Collective& collective) {
  const signals::ExitDeadline nothing_to_save_yet;
  auto run = std::make_unique<Run>(collective);
  run->program_bytes = resident_bytes();
  const uint64_t anonymous = anonymous_bytes();
  together(collective, "the start", [&] { plan(*run, given); });
  ops::ChosenDevice chosen;
  together(collective, "the run's directory", [&] {
    if (run->writes()) open_out_dir(*run);
    log::info("{}; out_dir {}", run->start.said, run->out_dir);
    log_settings(*run);
    chosen = choose_machine(*run);
  });
  join_devices(*run, chosen);
  first_rank_first(collective, "the tokenizer", [&] { prepare_tokenizer(*run); });
  first_of_machine_first(collective, "the data", [&] { prepare_data(*run); });
  together(collective, "the model", [&] {
    prepare_batches(*run);
    run->data_bytes = std::max(anonymous_bytes(), anonymous) - anonymous;
    try {
      prepare_model(*run);
    } catch (const c10::OutOfMemoryError& error) {
      throw ResourceError(
          "{} has no memory for the model's weights, gradients and moments: {}; use a smaller "
          "model or train less of it (lora_rank, freeze)",
          run->device.str(), error.what_without_backtrace());
    }
  });
  const EngineOptions engine = fit_into_memory(*run);
  together(collective, "the weights", [&] {
    prepare_engine(*run, engine);
    restore(*run);
  });
  compare_ranks(*run);
  together(collective, "the run's files", [&] {
    if (run->writes()) open_files(*run);
  });
  return run;
}

}  // namespace train_sft
