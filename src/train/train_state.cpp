#include "train_sft/base/error.h"
#include "train_sft/train/checkpoint.h"

namespace train_sft {
namespace {

std::vector<double> numbers(const Json& json, const char* field, const std::string& where) {
  std::vector<double> values;
  const auto found = json.find(field);
  if (found == json.end() || !found->is_array())
    throw DataError("{}: field '{}' is not a list of numbers", where, field);
  for (const Json& value : *found) {
    if (!value.is_number()) throw DataError("{}: field '{}' holds {}", where, field, value.dump());
    values.push_back(value.get<double>());
  }
  return values;
}

// [loss, gradient norm, …] of one step after another.
std::vector<double> flat_limits(const TrainState& state) {
  std::vector<double> flat;
  for (const StepLimits& limits : state.step_limits) {
    flat.push_back(limits.loss);
    flat.push_back(limits.grad_norm);
  }
  return flat;
}

std::vector<StepLimits> limits_from(const std::vector<double>& flat, const std::string& where) {
  if (flat.size() % 2 != 0 || flat.size() > 4)
    throw DataError("{}: field 'step_limits' holds {} numbers", where, flat.size());
  std::vector<StepLimits> limits;
  for (size_t i = 0; i < flat.size(); i += 2) limits.push_back({flat[i], flat[i + 1]});
  return limits;
}

}  // namespace

void keep_memory_choices(TrainState& loaded, const TrainState& now) {
  loaded.micro_rows = now.micro_rows;
  loaded.arena_limit = now.arena_limit;
  loaded.loss_scratch = now.loss_scratch;
}

Json to_json(const TrainState& state) {
  return {{"step", state.step},
          {"data_step", state.data_step},
          {"adam_t", state.adam_t},
          {"tokens", state.tokens},
          {"examples", state.examples},
          {"bad_steps", state.bad_steps},
          {"skipped", state.skipped},
          {"recent_losses", state.recent_losses},
          {"recent_grad_norms", state.recent_grad_norms},
          {"spikes", state.spikes},
          {"spikes_skipped", state.spikes_skipped},
          {"step_limits", flat_limits(state)},
          {"rollbacks", state.rollbacks},
          {"lr_scale", state.lr_scale},
          {"best_val_loss", state.best_step >= 0 ? Json(state.best_val_loss) : Json()},
          {"best_step", state.best_step},
          {"evals_since_best", state.evals_since_best},
          {"unreported", state.unreported},
          {"schedule", state.schedule},
          {"base_model", state.base_model},
          {"base_checksum", state.base_checksum},
          {"rows_per_step", state.rows_per_step},
          {"precision", state.precision},
          {"threads", state.threads},
          {"processes", state.processes},
          {"micro_rows", state.micro_rows},
          {"arena_limit", state.arena_limit},
          {"loss_scratch", state.loss_scratch},
          {"data_fingerprint", state.data_fingerprint},
          {"tokenizer_fingerprint", state.tokenizer_fingerprint},
          {"settings", state.settings}};
}

TrainState train_state_from_json(const Json& json, const std::string& where) {
  try {
    TrainState state;
    state.step = json_int(json, "step", where);
    state.data_step = json_int(json, "data_step", where);
    state.adam_t = json_int(json, "adam_t", where);
    state.tokens = json_int(json, "tokens", where);
    state.examples = json_int(json, "examples", where);
    state.bad_steps = json_int(json, "bad_steps", where);
    state.skipped = json_int(json, "skipped", where);
    if (json.contains("lr_scale")) {  // older checkpoints know nothing of these
      state.recent_losses = numbers(json, "recent_losses", where);
      state.recent_grad_norms = numbers(json, "recent_grad_norms", where);
      state.spikes = json_int(json, "spikes", where);
      state.spikes_skipped = json_int(json, "spikes_skipped", where);
      state.rollbacks = json_int(json, "rollbacks", where);
      state.lr_scale = json_number(json, "lr_scale", where);
    }
    if (json.contains("step_limits"))
      state.step_limits = limits_from(numbers(json, "step_limits", where), where);
    state.best_step = json_int(json, "best_step", where);
    if (state.best_step >= 0) state.best_val_loss = json_number(json, "best_val_loss", where);
    state.evals_since_best = json_int(json, "evals_since_best", where);
    state.unreported = json.value("unreported", Json());
    state.schedule = json.value("schedule", Json());
    state.settings = json.value("settings", Json());
    state.base_model = json.value("base_model", "");
    state.base_checksum = json.value("base_checksum", "");
    state.rows_per_step = json_int(json, "rows_per_step", where);
    state.precision = json_string(json, "precision", where);
    state.threads = json_int(json, "threads", where);
    if (json.contains("processes")) state.processes = json_int(json, "processes", where);
    if (json.contains("micro_rows")) state.micro_rows = json_int(json, "micro_rows", where);
    if (json.contains("arena_limit")) state.arena_limit = json_int(json, "arena_limit", where);
    if (json.contains("loss_scratch")) state.loss_scratch = json_int(json, "loss_scratch", where);
    state.data_fingerprint = json_string(json, "data_fingerprint", where);
    state.tokenizer_fingerprint = json_string(json, "tokenizer_fingerprint", where);
    return state;
  } catch (const DataError& error) {
    throw CheckpointError("{}", error.what());
  }
}

}  // namespace train_sft
