#include "cli/commands.h"
#include "train_sft/train/trainer.h"

namespace train_sft::cli {
namespace {

Outcome run_train(const Invocation& invocation) {
  validate(invocation.settings);
  TrainingResult result = train(invocation.settings);
  return {result.code, std::move(result.summary)};
}

}  // namespace

Command train_command() {
  Command command;
  command.name = "train";
  command.summary =
      "Trains a model: from nothing, from pretrained weights, or on from a checkpoint.";
  command.examples = {
      "train_sft --config shakespeare_char --data tinyshakespeare.txt",
      "train_sft --batch_size 8 --grad_accum 1 --max_iters 800 --eval_interval 50 "
      "--learning_rate 7e-5",
      "train_sft --pretrained_model checkpoints/best_model.pt --data alpaca.json --epochs 3",
      "train_sft --resume auto",
      "train_sft --resume checkpoints/best_model.pt --extend-steps 10000",
  };
  command.shared = {"*"};
  command.reads_files = true;
  command.run = run_train;
  return command;
}

}  // namespace train_sft::cli
