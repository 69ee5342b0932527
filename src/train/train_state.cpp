#include "train_sft/base/error.h"
#include "train_sft/train/checkpoint.h"

namespace train_sft {

Json to_json(const TrainState& state) {
  return {{"step", state.step},
          {"data_step", state.data_step},
          {"adam_t", state.adam_t},
          {"tokens", state.tokens},
          {"examples", state.examples},
          {"bad_steps", state.bad_steps},
          {"skipped", state.skipped},
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
    state.data_fingerprint = json_string(json, "data_fingerprint", where);
    state.tokenizer_fingerprint = json_string(json, "tokenizer_fingerprint", where);
    return state;
  } catch (const DataError& error) {
    throw CheckpointError("{}", error.what());
  }
}

}  // namespace train_sft
