#include "train/rollback.h"

#include <cmath>

#include "train/checkpoint_files.h"
#include "train/step.h"
#include "train_sft/base/file.h"
#include "train_sft/base/log.h"
#include "train_sft/collective/agreement.h"

namespace train_sft {
namespace files = checkpoint_files;
namespace {

constexpr int64_t kMostRollbacks = 3;
constexpr double kLowerBy = 0.5;

// "" when there is none.
std::string newest_good_checkpoint(const Run& run) {
  const auto found = files::list_checkpoints(run.out_dir);
  for (auto it = found.rbegin(); it != found.rend(); ++it) {
    const std::string directory = join_path(run.out_dir, it->name);
    if (it->step > run.state.step || !verify_checkpoint(directory).empty()) continue;
    if (!files::read_manifest(directory).has(files::kOptimizer)) continue;
    if (read_train_state(directory).bad_steps == 0) return directory;
  }
  return "";
}

}  // namespace

bool roll_back(Loop& loop) {
  Run& run = loop.run;
  if (run.config().on_divergence != "rollback") return false;
  {
    const LongWork takes_its_time(run.collective);
    take_saved(loop, true);
  }
  forget_step_in_flight(run);
  const int64_t rollbacks = run.state.rollbacks + 1;
  if (rollbacks > kMostRollbacks) {
    log::error("went back {} times and diverged again", kMostRollbacks);
    return false;
  }
  // The first rank knows what it has saved; the others follow.
  std::string checkpoint;
  together(run.collective, "going back: the checkpoint", [&] {
    if (run.writes()) checkpoint = newest_good_checkpoint(run);
  });
  checkpoint = run.collective.exchange_text(checkpoint, "going back: which").front();
  if (checkpoint.empty()) {
    log::error("{}: there is no checkpoint to go back to", run.out_dir);
    return false;
  }
  const int64_t diverged_at = run.state.step;
  const TrainState now = run.state;
  together(run.collective, "going back: loading", [&] {
    run.state = load_training(checkpoint, *run.parameters, *run.optimizer);
    load_fp8_state(checkpoint, *run.engine);
  });
  keep_memory_choices(run.state, now);
  run.state.rollbacks = rollbacks;
  run.state.lr_scale = std::pow(kLowerBy, static_cast<double>(rollbacks));
  log::warning(
      "diverged at step {}: going back to {} with {} of the learning rate (rollback {} of {})",
      diverged_at, checkpoint, run.state.lr_scale, rollbacks, kMostRollbacks);
  tell(
      loop, "rollback",
      {{"diverged_at", diverged_at}, {"checkpoint", checkpoint}, {"lr_scale", run.state.lr_scale}});
  if (run.writes()) {
    const LongWork takes_its_time(run.collective);
    supersede_checkpoints_after(run.out_dir, run.state.step);
    open_records(run);
  }
  loop.checkpoint = checkpoint;
  loop.saved_step = run.state.step;
  run.retry_step = -1;
  return true;
}

}  // namespace train_sft
