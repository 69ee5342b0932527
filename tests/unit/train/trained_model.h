// A model with weights and moments, to be saved and loaded.
#pragma once

#include "train_sft/train/checkpoint.h"
#include "unit/train/small_models.h"

namespace train_sft {

// A model with moments at some step, saved under directory.
struct Trained {
  explicit Trained(const ModelConfig& config, at::ScalarType compute = at::kFloat)
      : parameters(config, at::kFloat, compute), optimizer(parameters, {}) {
    fill_random(parameters.layout(), parameters.master(), 0, 0.1);
    parameters.refresh_compute();
    fill_random(parameters.layout(), optimizer.exp_avg(), 1, 1e-3);
    fill_random(parameters.layout(), optimizer.exp_avg_sq(), 2, 1e-6);
    state.schedule = Json::object();
    state.settings = Json::object();
    state.precision = compute == at::kFloat ? "fp32" : "bf16";
    state.threads = 1;
    state.tokenizer_fingerprint = letters_tokenizer().fingerprint();
  }

  std::string save(const std::string& out_dir, int64_t step, bool is_best = false) {
    state.step = state.data_step = state.adam_t = step;
    const auto format = chat_template("chatml");
    return save_checkpoint(
        out_dir, {&parameters, &optimizer, &state, &letters_tokenizer(), format.get()}, is_best);
  }

  Parameters parameters;
  Optimizer optimizer;
  TrainState state;
};

}  // namespace train_sft
