// The rows of the table. A flag exists here only when something implements it.
#include <fmt/ranges.h>

#include "config/option_access.h"
#include "train_sft/config/options.h"

namespace train_sft {
namespace {

using Names = std::vector<std::string>;
constexpr auto model = &TrainConfig::model;

std::string shown_default(const Json& value) {
  if (value.is_null()) return "derived";
  if (value.is_array() && value.empty()) return "none";
  if (value.is_string())
    return value.get<std::string>().empty() ? "none" : value.get<std::string>();
  return value.dump();
}

// A row whose type and default come from the field itself.
template <auto... Path>
Option row(const char* name, Names aliases, const char* help) {
  using Field =
      std::remove_cvref_t<decltype(option_access::field<Path...>(std::declval<TrainConfig&>()))>;
  Option option;
  option.name = name;
  option.aliases = std::move(aliases);
  option.help = help;
  option.type = option_access::type_name<typename option_access::Unwrapped<Field>::type>();
  option.set = &option_access::set<Path...>;
  option.get = &option_access::get<Path...>;
  option.default_text = shown_default(option.get(TrainConfig{}));
  return option;
}

Option between(Option option, std::optional<double> min, std::optional<double> max = {}) {
  option.min = min;
  option.max = max;
  return option;
}

Option one_of(Option option, Names choices) {
  option.choices = std::move(choices);
  return option;
}

Option or_file(Option option) {
  option.or_file = true;
  return option;
}

Option path(Option option) {
  option.value_name = "PATH";
  return option;
}

Option derived(Option option, const char* how) {
  option.default_text = how;
  return option;
}

using T = TrainConfig;
using M = ModelConfig;

// "auto", or a number that turns it off.
Option batch_size_row() {
  Option option = row<&T::batch_size>(
      "batch_size", {"device_batch_size", "mini_batch_size", "per_device_train_batch_size"},
      "Rows of a micro-batch on one device; auto: as many as fit into max_memory, of steps of the "
      "same size");
  option.set = [](TrainConfig& config, const Option& self, const Json& value) {
    config.batch_size_auto = value == Json("auto");
    config.batch_size =
        config.batch_size_auto ? TrainConfig{}.batch_size : option_access::to_int(self, value);
  };
  option.get = [](const TrainConfig& config) {
    return config.batch_size_auto ? Json("auto") : Json(config.batch_size);
  };
  option.choices = {"auto"};
  return option;
}

// One of several GPUs has a number.
Option device_row() {
  Option option =
      row<&T::device>("device", {}, "Where to compute; auto: a GPU if one works, or cuda:N");
  option.choices = {"auto", "cpu", "cuda"};
  option.set = [](TrainConfig& config, const Option& self, const Json& value) {
    const std::string text = value.is_string() ? value.get<std::string>() : "";
    const bool numbered = text.starts_with("cuda:") && text.size() > 5 && text.size() < 8 &&
                          text.find_first_not_of("0123456789", 5) == std::string::npos;
    if (numbered)
      config.device = text;
    else
      option_access::set<&T::device>(config, self, value);
  };
  return option;
}

std::vector<Option> data_options() {
  return {
      path(row<&T::data>("data", {}, "Files to train on; \"path*2.5\" weighs a file")),
      path(row<&T::val_data>("val_data", {}, "Files to validate on, instead of a part of data")),
      between(row<&T::val_split>("val_split", {}, "Part of data kept for validation; 0: none"), 0,
              0.9),
      path(row<&T::eval_data>("eval_data", {},
                              "name=path: further sets, scored with each evaluation by name")),
      one_of(row<&T::val_split_by>("val_split_by", {},
                                   "Which part: by content hash, or the tail; auto: the tail of "
                                   "plain text, else by hash"),
             {"auto", "hash", "tail"}),
      one_of(row<&T::data_format>("data_format", {}, "Format of the files; auto: detected"),
             {"auto", "text", "alpaca", "prompt_completion", "messages", "sharegpt", "token_bin"}),
      row<&T::field_map>("field_map", {},
                         "Names of fields in the data: instruction=question,output=answer"),
      one_of(row<&T::train_on>("train_on", {},
                               "Which turns of a conversation are learned: the assistant's, its "
                               "last, or every token"),
             {"assistant", "last", "all"}),
      row<&T::data_vars>("data_vars", {}, "name=value,name=value: fills {{name}} in the data"),
      path(row<&T::tokenizer>(
          "tokenizer", {},
          "tokenizer.model, tokenizer.json or a directory with one; none: trained")),
      one_of(row<&T::tokenizer_type>("tokenizer_type", {}, "Type of a tokenizer trained here"),
             {"unigram", "bpe", "char"}),
      or_file(one_of(row<&T::chat_template>("chat_template", {},
                                            "How conversations are rendered; auto: as the model "
                                            "or tokenizer brings it, else chatml"),
                     {"auto", "chatml", "alpaca", "llama3", "nanochat"})),
      one_of(row<&T::packing>("packing", {},
                              "none: one example a row; best_fit: several whole examples a row; "
                              "sequential: a stream of text; auto: none for conversations, else "
                              "sequential"),
             {"auto", "none", "best_fit", "sequential"}),
      one_of(row<&T::overlong>("overlong", {}, "What happens to an example longer than a row"),
             {"truncate", "drop", "split", "error"}),
      derived(row<&T::cache_dir>("cache_dir", {},
                                 "Where tokens are kept between runs; none: in memory only"),
              ".cache/train_sft"),
      row<&T::verify_data>("verify_data", {},
                           "Check every byte of the data files and the token cache at the start, "
                           "not samples"),
      between(row<&T::seed>("seed", {}, "Seed of order, initial weights and dropout"), 0),
  };
}

std::vector<Option> batch_options() {
  return {
      between(batch_size_row(), 1, 1 << 24),
      derived(between(row<&T::grad_accum>("grad_accum", {"gradient_accumulation_steps"},
                                          "Micro-batches a step"),
                      1, 1 << 24),
              "1"),
      derived(between(row<&T::total_batch_size>("total_batch_size", {},
                                                "Tokens a step; sets grad_accum, must divide"),
                      1, 1e15),
              "from grad_accum"),
      derived(
          between(row<&T::target_examples_per_step>("target_examples_per_step", {},
                                                    "Rows a step; sets grad_accum, must divide"),
                  1, 1e12),
          "from grad_accum"),
      between(row<&T::block_size>("block_size", {"context_length", "max_seq_len", "max_tokens"},
                                  "Tokens a row"),
              1, 1 << 24),
  };
}

std::vector<Option> length_options() {
  return {
      derived(between(row<&T::max_iters>("max_iters", {"max_steps", "num_iterations"},
                                         "Optimizer steps; -1: one epoch"),
                      -1, 1e15),
              "one epoch"),
      derived(
          between(row<&T::epochs>("epochs", {"num_train_epochs"}, "Passes over the data"), 0, 1e9),
          "1"),
      derived(between(row<&T::extend_steps>("extend_steps", {},
                                            "With resume: go on to this step with a new schedule"),
                      1, 1e15),
              "none"),
  };
}

std::vector<Option> optimizer_options() {
  return {
      one_of(row<&T::optimizer>("optimizer", {},
                                "Optimizer; muon: of the blocks' matrices, AdamW for the rest"),
             {"adamw", "muon"}),
      between(row<&T::learning_rate>("learning_rate", {"lr"}, "Peak learning rate"), 0, 1000),
      derived(between(row<&T::min_lr>("min_lr", {"final_lr"}, "Learning rate at the last step"), 0,
                      1000),
              "learning_rate / 10"),
      one_of(row<&T::lr_schedule>("lr_schedule", {}, "Shape of the learning rate after warm-up"),
             {"constant", "linear", "cosine", "warmup_plateau_cosine"}),
      derived(between(row<&T::warmup_iters>("warmup_iters", {"warmup_steps"},
                                            "Steps of linear warm-up"),
                      0, 1e15),
              "2.5 % of the run"),
      derived(between(row<&T::plateau_iters>("plateau_iters", {"plateau_steps"},
                                             "Steps at the peak (warmup_plateau_cosine)"),
                      0, 1e15),
              "50 % of the run"),
      between(row<&T::weight_decay>("weight_decay", {}, "Decoupled decay, of matrices only"), 0,
              1000),
      between(row<&T::beta1>("beta1", {}, "AdamW: decay of the first moment"), 0, 0.999999),
      between(row<&T::beta2>("beta2", {}, "AdamW: decay of the second moment"), 0, 0.99999999),
      between(row<&T::adam_eps>("adam_eps", {}, "AdamW: added to the denominator"), 0, 1),
      between(row<&T::grad_clip>("grad_clip", {}, "Largest gradient norm; 0: no clipping"), 0),
      between(row<&T::dropout>("dropout", {}, "Dropout of embeddings and residual branches"), 0,
              0.99),
      between(row<&T::max_bad_steps>("max_bad_steps", {},
                                     "Non-finite steps in a row after which the run ends (code 6)"),
              1, 1e9),
      one_of(row<&T::on_divergence>(
                 "on_divergence", {},
                 "What happens then: stop, or rollback to the last good checkpoint and half the "
                 "learning rate, three times at most"),
             {"stop", "rollback"}),
      between(
          row<&T::skip_spikes>("skip_spikes", {},
                               "Skip updates whose loss or gradient norm stands so many standard "
                               "deviations above the last 100 steps; 0: spikes are only "
                               "reported"),
          0, 1000),
  };
}

std::vector<Option> model_options() {
  return {
      one_of(row<model, &M::family>("family", {}, "Architecture of a new model"),
             {"gpt2", "llama"}),
      between(row<model, &M::n_layer>("n_layer", {}, "Layers"), 1, 10000),
      between(row<model, &M::n_head>("n_head", {}, "Attention heads"), 1, 10000),
      derived(
          between(row<model, &M::n_kv_head>("n_kv_head", {}, "Heads of keys and values (llama)"), 0,
                  10000),
          "n_head"),
      between(row<model, &M::n_embd>("n_embd", {}, "Width"), 1, 1 << 20),
      derived(between(row<model, &M::head_size>("head_size", {"head_dim"},
                                                "Channels of an attention head (llama)"),
                      0, 1 << 16),
              "n_embd / n_head"),
      derived(between(row<model, &M::ffn_hidden>("ffn_hidden", {}, "Width of the feed-forward"), 0,
                      1 << 24),
              "4 or 8/3 × n_embd"),
      derived(between(row<model, &M::vocab_size>(
                          "vocab_size", {},
                          "Rows of the embedding, and size of a tokenizer trained here"),
                      0, 1 << 24),
              "the tokenizer's"),
      row<model, &M::tie_embeddings>("tie_embeddings", {},
                                     "Output layer shares the embedding's weights"),
      row<model, &M::qkv_bias>("qkv_bias", {}, "Biases on queries, keys and values (llama: Qwen2)"),
      row<model, &M::qk_norm>("qk_norm", {},
                              "RMSNorm of each head of queries and keys (llama: Qwen3)"),
      between(row<model, &M::norm_eps>("norm_eps", {}, "Epsilon of the norms"), 1e-12, 1),
      between(row<model, &M::rope_theta>("rope_theta", {}, "Base of rotary positions (llama)"), 1),
      path(row<&T::pretrained_model>("pretrained_model", {"init_from"},
                                     "Start from these weights, at step 0")),
      between(row<&T::lora_rank>("lora_rank", {"lora_r"},
                                 "Rank of LoRA's adapters, which alone are trained; 0: no LoRA"),
              0, 65536),
      derived(between(row<&T::lora_alpha>("lora_alpha", {},
                                          "LoRA: the adapters count lora_alpha / lora_rank times"),
                      1e-6, 1e6),
              "2 × lora_rank"),
      derived(row<&T::lora_targets>("lora_targets", {"lora_target_modules"},
                                    "LoRA: modules adapted, such as q_proj v_proj"),
              "every linear layer of the blocks"),
      row<&T::freeze>("freeze", {},
                      "Patterns of parameters that stay as they are, such as model.embed_tokens.*"),
  };
}

std::vector<Option> run_options() {
  return {
      derived(path(row<&T::out_dir>("out_dir", {}, "Where checkpoints and logs go")),
              "checkpoints, checkpoints_instruct with pretrained_model, checkpoints_restart with a "
              "fresh schedule"),
      row<&T::resume>("resume", {}, "Continue: auto (the newest valid checkpoint) or a path"),
      row<&T::fresh_schedule>("fresh_schedule", {},
                              "With resume: only the weights; the schedule starts at step 0"),
      row<&T::overwrite_data_check>("overwrite_data_check", {}, "Resume although the data changed"),
      between(row<&T::eval_interval>("eval_interval", {"eval_every", "eval_freq", "eval_steps"},
                                     "Steps between evaluations; -1 or 0: off"),
              -1, 1e15),
      between(row<&T::eval_batches>("eval_batches", {},
                                    "Micro-batches of an evaluation; 0: all validation data"),
              0, 1e12),
      derived(between(row<&T::save_interval>("save_interval",
                                             {"checkpoint_freq", "save_steps", "save_every"},
                                             "Steps between checkpoints"),
                      0, 1e15),
              "with each evaluation, else 1000"),
      row<&T::save_in_background>("save_in_background", {},
                                  "Write checkpoints from a copy in memory while training goes on"),
      between(row<&T::log_interval>("log_interval", {"logging_steps"}, "Steps between log lines"),
              1, 1e15),
      between(row<&T::sample_interval>("sample_interval", {},
                                       "Steps between samples of the model's text; 0: off"),
              0, 1e15),
      row<&T::sample_prompts>("sample_prompts", {},
                              "Prompts of those samples; \"@FILE\" has one a line"),
      between(row<&T::keep>("keep", {}, "Checkpoints kept beside the best; 0: all"), 0, 1e9),
      between(row<&T::keep_optimizer>("keep_optimizer", {},
                                      "Checkpoints that keep their optimizer state"),
              1, 1e9),
      between(row<&T::early_stop_patience>("early_stop_patience", {},
                                           "End after this many evaluations without gain; 0: off"),
              0, 1e9),
      between(row<&T::min_delta>("min_delta", {}, "What counts as gain in validation loss"), 0),
      row<&T::use_tensorboard>("use_tensorboard", {}, "Write TensorBoard files"),
      derived(path(row<&T::tensorboard_dir>("tensorboard_dir", {}, "Where they go")),
              "runs_instruct for conversations, else runs"),
      between(row<&T::histogram_interval>(
                  "histogram_interval", {},
                  "Steps between TensorBoard histograms of weights and gradients; 0: off"),
              0, 1e15),
      row<&T::on_event>("on_event", {},
                        "Shell command run at each event (checkpoint, sign, rollback, early_stop, "
                        "diverged, stopped, finished), with its JSON on stdin and in "
                        "TRAIN_SFT_EVENT; on the command line only"),
      derived(path(row<&T::log_file>("log_file", {}, "The run's log")), "training.log in out_dir"),
      row<&T::log_examples>("log_examples", {},
                            "Write the example ids of every step to examples.jsonl"),
      row<&T::profile>("profile", {}, "Say at the end where the steps' time went, op by op"),
      row<&T::json>("json", {}, "One JSON object on stdout, everything else on stderr"),
  };
}

std::vector<Option> machine_options() {
  return {
      device_row(),
      one_of(row<&T::precision>("precision", {"dtype"},
                                "Precision of the computation; fp8: training on a GPU that has it"),
             {"auto", "fp32", "bf16", "fp8"}),
      one_of(row<&T::fp8_gradients>("fp8_gradients", {},
                                    "precision fp8: format of gradients; e5m2 reaches further, "
                                    "e4m3 is finer"),
             {"e5m2", "e4m3"}),
      one_of(row<&T::fp8_scaling>("fp8_scaling", {},
                                  "precision fp8: scales from the largest magnitudes of the last "
                                  "fp8_history steps, or of the moment, which takes a pass more"),
             {"delayed", "current"}),
      between(row<&T::fp8_history>("fp8_history", {}, "precision fp8: steps of delayed scaling"), 2,
              1024),
      between(row<&T::fp8_margin>("fp8_margin", {},
                                  "precision fp8: powers of two that scales leave to spare"),
              0, 8),
      row<&T::fp8_weight_gradient>("fp8_weight_gradient", {},
                                   "precision fp8: weights' gradients from 8-bit operands too"),
      derived(row<&T::fp8_bf16>("fp8_bf16", {},
                                "precision fp8: blocks (first, last, numbers from 0) and kinds of "
                                "linear layers (qkv, proj, up, down) that stay in bfloat16, or "
                                "none"),
              "first,last"),
      derived(between(row<&T::threads>("threads", {}, "CPU threads"), 0, 4096),
              "the cores this process may use"),
      row<&T::max_memory>("max_memory", {},
                          "Memory this process may use: bytes such as 8GB or 512MiB, or a part of "
                          "what the machine or the cgroup leaves it"),
      one_of(row<&T::recompute>("recompute", {},
                                "What of each layer is computed again in the backward instead of "
                                "kept: less memory for more time, the same bits"),
             {"none", "attention", "block"}),
      between(row<&T::procs>("procs", {},
                             "Processes that train together on this machine's CPUs, each with its "
                             "part of every step's rows"),
              1, 1024),
      between(
          row<&T::gpus>("gpus", {},
                        "Ranks of the batch: batch_size and grad_accum count for each. A process "
                        "is started for each GPU here; with fewer devices the ranks are "
                        "computed in turn, with the same result"),
          1, 65536),
      one_of(
          row<&T::shard>("shard", {},
                         "What the processes of a run share out among them: the optimizer's state"),
          {"none", "optimizer"}),
      one_of(row<&T::reduce_dtype>("reduce_dtype", {},
                                   "What the processes send each other of gradients: bf16 halves "
                                   "the bytes and rounds; auto is fp32"),
             {"auto", "fp32", "bf16"}),
      between(row<&T::dist_timeout>("dist_timeout", {},
                                    "Seconds that one process of a run waits for another before it "
                                    "gives the run up"),
              1, 86400),
  };
}

std::vector<Option> whole_table() {
  std::vector<Option> table;
  const auto add = [&](const char* group, std::vector<Option> options) {
    for (Option& option : options) {
      option.group = group;
      table.push_back(std::move(option));
    }
  };
  add("Data", data_options());
  add("Batch", batch_options());
  add("Length", length_options());
  add("Optimizer and schedule", optimizer_options());
  add("Model", model_options());
  add("Run", run_options());
  add("Machine", machine_options());
  return table;
}

}  // namespace

const std::vector<Option>& option_table() {
  static const std::vector<Option> table = whole_table();
  return table;
}

}  // namespace train_sft
