// Every setting of the program, with its built-in default. The option table (config/options.h)
// gives each its names, range and help; docs and validation come from there. An empty optional
// means "derive it": how is said beside the field.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "train_sft/config/model_config.h"
#include "train_sft/config/parameter_layout.h"

namespace train_sft {

struct TrainConfig {
  // -- data
  std::vector<std::string> data;       // files; each may carry a weight: "path*2.5"
  std::vector<std::string> val_data;   // empty: val_split of data
  double val_split = 0.05;             // 0: no validation
  std::vector<std::string> eval_data;  // name=path: sets scored beside the validation data
  std::string val_split_by =
      "auto";  // hash (of the content), tail; auto: tail for plain text, else hash
  // auto, text, alpaca, prompt_completion, messages, sharegpt, token_bin
  std::string data_format = "auto";
  std::vector<std::string> field_map;  // instruction=question: names of fields in the data
  std::string train_on = "assistant";  // assistant, last, all
  std::vector<std::string> data_vars;  // name=value: fills {{name}}
  std::string tokenizer;  // a .model file or a directory that holds one; see tokenizer_type
  std::string tokenizer_type = "bpe";  // of a tokenizer trained here: unigram, bpe, char
  std::string chat_template = "auto";  // a name, a .json file; auto: the model's own, else chatml
  std::string packing =
      "auto";  // none, best_fit, sequential; auto: none for conversations, else sequential
  std::string overlong = "truncate";  // truncate, drop, split, error
  std::string cache_dir;              // of tokens; derived: .cache/train_sft; none: in memory
  bool verify_data = false;  // check all of data files and token cache at the start, not samples
  int64_t seed = 1337;

  // -- batch (at most one of grad_accum, total_batch_size, target_examples_per_step)
  int64_t batch_size = 8;                           // rows of a micro-batch on one device
  bool batch_size_auto = false;  // the rows computed at once are chosen by memory (run_shape.h)
  std::optional<int64_t> grad_accum;                // derived; 1 when nothing else is said
  std::optional<int64_t> total_batch_size;          // tokens a step
  std::optional<int64_t> target_examples_per_step;  // rows a step
  int64_t block_size = 1024;

  // -- length (at most one of max_iters and epochs; neither: one epoch)
  std::optional<int64_t> max_iters;  // optimizer steps; -1: one epoch
  std::optional<double> epochs;
  std::optional<int64_t> extend_steps;  // with resume: a new schedule up to this step

  // -- optimizer and schedule
  std::string optimizer = "adamw";  // adamw, muon
  double learning_rate = 3e-4;
  std::optional<double> min_lr;          // derived: learning_rate / 10
  std::string lr_schedule = "cosine";    // constant, linear, cosine, warmup_plateau_cosine
  std::optional<int64_t> warmup_iters;   // derived: 2.5 % of the run
  std::optional<int64_t> plateau_iters;  // derived: 50 % of the run (warmup_plateau_cosine)
  double weight_decay = 0.1;
  double beta1 = 0.9;
  double beta2 = 0.95;
  double adam_eps = 1e-8;
  double grad_clip = 1.0;  // 0: off
  double dropout = 0.0;
  int64_t max_bad_steps = 10;          // non-finite steps in a row before exit code 6
  std::string on_divergence = "stop";  // then: stop, rollback
  double skip_spikes = 0;              // standard deviations; 0: spikes are only reported

  // -- model
  ModelConfig model;                      // block_size above is copied into it for a new model
  std::string pretrained_model;           // weights only, step 0
  int64_t lora_rank = 0;                  // 0: every parameter is trained, but for freeze
  std::optional<double> lora_alpha;       // derived: 2 × lora_rank
  std::vector<std::string> lora_targets;  // empty: every linear layer of the blocks
  std::vector<std::string> freeze;        // shell patterns of parameters' names

  // -- run
  std::string out_dir;  // derived: checkpoints, checkpoints_instruct, checkpoints_restart
  std::string resume;   // auto or a checkpoint
  bool fresh_schedule = false;
  bool overwrite_data_check = false;  // resume although the data changed
  int64_t eval_interval = 250;        // -1 or 0: off
  int64_t eval_batches = 0;           // rows of validation used, in micro-batches; 0: all of it
  int64_t save_interval = 0;          // 0: with each evaluation (or 1000) and at the end
  bool save_in_background = true;     // from a copy, while training goes on
  int64_t log_interval = 10;
  int64_t sample_interval = 0;  // 0: off
  std::vector<std::string> sample_prompts;  // "@file": a prompt a line
  int64_t keep = 3;  // checkpoints kept beside best; 0: all
  int64_t keep_optimizer = 2;
  int64_t early_stop_patience = 0;  // evaluations without improvement; 0: off
  double min_delta = 0.0;
  bool use_tensorboard = false;
  std::string tensorboard_dir;  // derived: runs_instruct for conversations, else runs
  std::string log_file;         // derived: <out_dir>/training.log
  int64_t histogram_interval = 0;  // TensorBoard, weights and gradients; 0: off
  std::string on_event;            // a shell command
  bool log_examples = false;    // examples.jsonl: the example ids of every step
  bool profile = false;         // says at the end where the steps' time went
  bool json = false;

  // -- machine
  std::string device = "auto";     // auto, cpu, cuda, cuda:N
  std::string precision = "auto";  // auto, fp32, bf16, fp8
  std::string fp8_gradients = "e5m2";       // e5m2, e4m3
  std::string fp8_scaling = "delayed";      // delayed, current
  int64_t fp8_history = 16;                 // steps, of delayed scaling
  double fp8_margin = 0;                    // powers of two
  bool fp8_weight_gradient = false;         // of 8-bit operands, too
  std::vector<std::string> fp8_bf16;        // config/fp8_settings.h; empty: first, last
  int64_t threads = 0;             // 0: the cores this process may use
  std::string max_memory = "90%";  // bytes with a suffix, or a part of what there is
  std::string recompute = "none";  // none, attention, block (config/recompute.h)
  int64_t procs = 1;  // processes of this run that this one starts (dist/launch.h)
  int64_t gpus = 1;  // ranks of the batch; derived: the processes of the run
  std::string shard = "none";   // none, optimizer: its state is shared among the processes
  std::string reduce_dtype = "auto";  // auto, fp32, bf16: what gradients are summed over ranks in
  int64_t dist_timeout = 600;   // seconds that one process of a run waits for another
};

// What a run of these settings trains.
Training training_of(const TrainConfig& config);

}  // namespace train_sft
