#include <algorithm>
#include <chrono>

#include "cli/commands.h"
#include "cli/processes.h"
#include "train_sft/base/disk_wait.h"
#include "train_sft/base/log.h"
#include "train_sft/base/signals.h"
#include "train_sft/collective/join.h"
#include "train_sft/dist/environment.h"
#include "train_sft/ops/load_device.h"
#include "train_sft/train/trainer.h"

namespace train_sft::cli {
namespace {

// What is not for people twice: of many processes the first says how training goes, the others only
// what is wrong.
void speak_as(const ProcessPlace& place) {
  // Our own launcher says of each line whose it is.
  if (place.launcher != kOwnLauncher) log::set_prefix(fmt::format("rank {}: ", place.rank));
  if (place.rank > 0) log::set_level(log::Level::warning);
}

// Started again by a launcher after a failure, a run goes on where it was.
Settings settings_of_this_start(const Invocation& invocation, const ProcessPlace& place) {
  Settings settings = invocation.settings;
  if (place.restart_count > 0 && settings.config.resume.empty())
    settings.set("resume", "auto",
                 fmt::format("restart {} by {}", place.restart_count, place.launcher));
  return settings;
}

TrainingResult train_at(const ProcessPlace& place, const Invocation& invocation) {
  const Settings settings = settings_of_this_start(invocation, place);
  validate(settings);
  disk_wait::set_patience(
      std::min(disk_wait::kPatience, std::chrono::seconds(settings.config.dist_timeout)));
  if (place.world_size == 1) return train(settings);
  speak_as(place);
  if (settings.config.procs == 1) ops::load_early(settings.config.device);
  const auto collective = [&] {
    const signals::ExitDeadline nothing_to_save_yet;
    return join_processes(place, std::chrono::seconds(settings.config.dist_timeout));
  }();
  return train(settings, *collective);
}

Outcome run_train(const Invocation& invocation) {
  validate(invocation.settings);
  if (std::optional<Outcome> outcome = run_processes(invocation)) return *std::move(outcome);
  const auto& place = invocation.surroundings.place();
  TrainingResult result = place ? train_at(*place, invocation) : train(invocation.settings);
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
      "train_sft --gpus 8 --data books.txt",
      "train_sft --procs 4 --data books.txt",
      "train_sft --resume checkpoints/best_model.pt --extend-steps 10000",
  };
  command.shared = {"*"};
  command.reads_files = true;
  command.run = run_train;
  return command;
}

}  // namespace train_sft::cli
