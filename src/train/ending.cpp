#include "train/ending.h"

#include <algorithm>
#include <cmath>

#include "train/samples.h"
#include "train_sft/base/error.h"
#include "train_sft/base/log.h"
#include "train_sft/collective/agreement.h"

namespace train_sft {
namespace {

const char* name_of(Ending ending) {
  switch (ending) {
    case Ending::max_iters:
      return "max_iters";
    case Ending::early_stop:
      return "early_stop";
    case Ending::signal:
      return "signal";
    case Ending::diverged:
      return "diverged";
  }
  return "";
}

const char* event_of(Ending ending) {
  if (ending == Ending::max_iters) return "finished";
  return ending == Ending::signal ? "stopped" : name_of(ending);
}

ExitCode exit_code(Ending ending, ExitCode stopped_with) {
  if (ending == Ending::diverged) return ExitCode::diverged;
  return ending == Ending::signal ? stopped_with : ExitCode::ok;
}

// 8-bit scales are the same on all ranks, and stored by one.
CheckpointParts parts_of(Run& run) {
  TRAIN_SFT_CHECK(!run.in_flight, "step {} is being worked on", run.state.step + 1);
  return {run.parameters.get(), run.optimizer.get(),     &run.state,
          run.tokenizer.get(),  run.chat_template.get(), run.writes() ? run.engine.get() : nullptr};
}

// The same on every rank, also where each sees its part of the masters alone.
void check_all_finite(Run& run) {
  const CheckpointParts parts = parts_of(run);
  if (!run.parameters->masters_shared()) return check_finite(parts);
  std::string fault;
  try {
    check_finite(parts);
  } catch (const DivergedError& error) {
    fault = error.what();
  }
  for (const std::string& said : run.collective.exchange_text(fault, "checkpoint: finite weights"))
    if (!said.empty()) throw DivergedError("{}", said);
}

struct SaveJob {
  CheckpointContents contents;
  bool is_best = false;
};

SaveJob prepare_save(Loop& loop) {
  Run& run = loop.run;
  take_saved(loop, true);  // at most one in flight
  const bool is_best =
      !run.evaluates() || run.state.best_step < 0 || run.state.best_step == run.state.step;
  restore_out_dir(run);
  sync_records(run);  // what the checkpoint counts must be as durable as the checkpoint
  loop.saved_step = run.state.step;
  loop.run.retry_step = -1;
  return {contents_of(parts_of(run)), is_best};
}

// Tried again soon: an interval may be days.
void note_failure(Loop& loop, int64_t step, const std::string& error) {
  const int64_t interval = std::max<int64_t>(loop.run.config().save_interval, 100);
  loop.saved_step = -1;
  loop.run.retry_step = loop.run.state.step + interval / 10;
  log::warning(
      "the checkpoint of step {} could not be saved: {}. Training goes on; {}, and the "
      "next try is at step {}",
      step, error,
      loop.checkpoint.empty() ? "there is none yet" : "the last checkpoint is " + loop.checkpoint,
      loop.run.retry_step);
}

void note_saved(Loop& loop, const CheckpointSaver::Saved& saved) {
  if (!saved.error.empty()) return note_failure(loop, saved.step, saved.error);
  loop.checkpoint = saved.directory;
  loop.run.retry_step = -1;
  log::info("saved {}{}", saved.directory, saved.is_best ? " (best)" : "");
  tell(loop, "checkpoint",
       {{"step", saved.step}, {"checkpoint", saved.directory}, {"is_best", saved.is_best}});
}

// Every rank writes its part of the optimizer's state beside what the first writes, which commits
// all when all are durable. Throws on every rank when it went wrong on one.
void save_shared(Loop& loop) {
  Run& run = loop.run;
  Collective& all = run.collective;
  const int64_t step = run.state.step;
  SaveJob job;
  together(all, "checkpoint: begin", [&] {
    if (!run.writes()) {
      job.contents = contents_of(parts_of(run));
      return;
    }
    job = prepare_save(loop);
    remove_tree(saving_directory(run.out_dir, step));
    make_directories(saving_directory(run.out_dir, step));
  });
  loop.saved_step = -1;
  checkpoint_files::FileRecord mine;
  together(all, "checkpoint: optimizer", [&] {
    if (!run.writes()) mine = write_optimizer_part(run.out_dir, job.contents, all.rank());
  });
  const auto records = all.exchange_text(
      Json({{"bytes", mine.bytes}, {"checksum", mine.checksum}}).dump(), "checkpoint: files");
  together(all, "checkpoint: commit", [&] {
    if (!run.writes()) return;
    for (int rank = 1; rank < all.size(); ++rank) {
      const Json record = Json::parse(records[static_cast<size_t>(rank)]);
      job.contents.parts_written[checkpoint_files::optimizer_part(rank)] = {
          record["bytes"].get<uint64_t>(), record["checksum"].get<std::string>()};
    }
    const CheckpointSaver::Saved saved = loop.saver.save(job.contents, job.is_best);
    if (!saved.error.empty()) throw ResourceError("{}", saved.error);
    note_saved(loop, saved);
  });
  loop.saved_step = step;
}

// The last one must be there when the program ends.
void save_now(Loop& loop) {
  check_finite(parts_of(loop.run));
  const SaveJob job = prepare_save(loop);
  const CheckpointSaver::Saved saved = loop.saver.save(job.contents, job.is_best);
  if (!saved.error.empty()) throw ResourceError("{}", saved.error);
  note_saved(loop, saved);
}

// Nothing of a diverged run is saved: its last good checkpoint is the one to go on from.
void save_and_say(Loop& loop, Ending ending) {
  take_saved(loop, true);
  if (ending == Ending::diverged) {
    log::error("training has diverged: {}. {}; lower learning_rate or grad_clip",
               loop.run.state.bad_steps > 0
                   ? fmt::format("{} steps in a row had a loss or gradient that is not finite",
                                 loop.run.state.bad_steps)
                   : "the weights are not finite",
               loop.checkpoint.empty() ? "No checkpoint was saved before"
                                       : "The last checkpoint " + loop.checkpoint + " is intact");
    return;
  }
  if (loop.saved_step != loop.run.state.step) save_now(loop);
  if (ending == Ending::signal) log::info("stopped by a signal; go on with --resume auto");
}

Json number_or_null(bool there, double value) {
  return there && std::isfinite(value) ? Json(value) : Json();
}

Json summarise(const Loop& loop, Ending ending) {
  const TrainState& state = loop.run.state;
  const std::optional<double>& val_loss = loop.evaluation.val_loss;
  Json eval = Json::object();
  for (const auto& [name, loss] : loop.evaluation.set_losses)
    eval[name] = number_or_null(std::isfinite(loss), loss);
  const bool trained = loop.reporter.tokens_per_s() > 0;
  return {{"stopped_by", name_of(ending)},
          {"step", state.step},
          {"max_iters", loop.run.schedule.max_iters},
          {"epochs", loop.run.epoch()},
          {"tokens", state.tokens},
          {"examples", state.examples},
          {"loss", number_or_null(trained, loop.reporter.last_loss())},
          {"val_loss", number_or_null(val_loss.has_value(), val_loss.value_or(0))},
          {"eval", std::move(eval)},
          {"best_val_loss", number_or_null(state.best_step >= 0, state.best_val_loss)},
          {"best_step", state.best_step >= 0 ? Json(state.best_step) : Json()},
          {"skipped", state.skipped},
          {"tokens_per_s", loop.reporter.tokens_per_s()},
          {"seconds", loop.reporter.seconds()},
          {"out_dir", loop.run.out_dir},
          {"checkpoint", loop.checkpoint}};
}

}  // namespace

void tell(Loop& loop, const char* event, const Json& more) {
  Json message = {{"event", event}, {"out_dir", loop.run.out_dir}, {"step", loop.run.state.step}};
  message.update(more);
  loop.hook.send(message);
}

Loop::Loop(Run& r)
    : run(r),
      reporter(r),
      hook(r.on_event),
      profile(r.config().profile),
      saver(r.out_dir, r.config().keep, r.config().keep_optimizer),
      prompts(sample_prompts(r)),
      checkpoint(r.start.checkpoint),
      saved_step(r.start.state ? r.state.step : -1) {}

bool save(Loop& loop) {
  try {
    check_all_finite(loop.run);
    if (loop.run.shards->shared()) {
      save_shared(loop);
      return true;
    }
    if (!loop.run.writes()) return true;
    const SaveJob job = prepare_save(loop);
    if (loop.run.config().save_in_background)
      loop.saver.start(job.contents, job.is_best);
    else
      note_saved(loop, loop.saver.save(job.contents, job.is_best));
  } catch (const ResourceError& error) {
    note_failure(loop, loop.run.state.step, error.what());
  } catch (const DivergedError& error) {
    log::error("{}", error.what());
    return false;
  }
  return true;
}

void take_saved(Loop& loop, bool wait) {
  if (const auto saved = loop.saver.take(wait)) note_saved(loop, *saved);
}

TrainingResult finish(Loop& loop, Ending ending) {
  const bool is_saved = loop.saved_step == loop.run.state.step;
  if (loop.run.shards->shared() && ending != Ending::diverged && !is_saved) save_shared(loop);
  together(loop.run.collective, "the last checkpoint", [&] {
    if (loop.run.writes()) save_and_say(loop, ending);
  });
  loop.profile.say();
  Json summary = summarise(loop, ending);
  if (Json profile = loop.profile.json(); !profile.is_null())
    summary["profile"] = std::move(profile);
  if (loop.run.writes()) loop.page.finish(loop.run, summary);
  tell(loop, event_of(ending), summary);
  return {exit_code(ending, loop.run.stop_code), name_of(ending), std::move(summary)};
}

}  // namespace train_sft
