#include "train/start.h"

#include "train/checkpoint_files.h"
#include "train/resume_settings.h"
#include "train_sft/base/error.h"
#include "train_sft/base/file.h"
#include "train_sft/train/schedule.h"

namespace train_sft {
namespace files = checkpoint_files;
namespace {

constexpr const char* kNewRun = "checkpoints";
constexpr const char* kInstruct = "checkpoints_instruct";
constexpr const char* kRestart = "checkpoints_restart";

std::string out_dir_or(const Settings& given, const std::string& otherwise) {
  return given.config.out_dir.empty() ? otherwise : given.config.out_dir;
}

// Takes out_dir and clears what belonged to this start only.
void finish(StartPlan& plan, const Settings& given, const std::string& out_dir) {
  clear_start_options(plan.settings);
  plan.settings.config.out_dir = out_dir;
  plan.settings.config.json = given.config.json;
  plan.settings.config.overwrite_data_check = given.config.overwrite_data_check;
  if (const auto source = given.source.find("out_dir"); source != given.source.end())
    plan.settings.source["out_dir"] = source->second;
  validate(plan.settings);
}

// Every model option that is given must agree with the checkpoint's model: the shape is not asked
// for again, but a contradiction is an error. vocab_size also sizes a tokenizer to be trained, and
// a checkpoint brings its own.
void adopt_model(Settings& settings, const std::string& checkpoint) {
  TrainConfig stored;
  stored.model = read_model_config(checkpoint);
  for (const char* name :
       {"family", "n_layer", "n_head", "n_kv_head", "n_embd", "head_size", "ffn_hidden",
        "tie_embeddings", "qkv_bias", "qk_norm", "norm_eps", "rope_theta"}) {
    if (!settings.given(name)) continue;
    const Option* option = find_option(name);
    const Json now = option->get(settings.config), then = option->get(stored);
    const bool derived = now == Json(0);  // n_kv_head, head_size, ffn_hidden: "the usual"
    if (!derived && now != then)
      throw CheckpointError(
          "{}: {} is {} in the checkpoint's model and {} in the settings ({}); "
          "leave it out, or choose another checkpoint",
          checkpoint, name, then.dump(), now.dump(), settings.source.at(name));
  }
  settings.config.model = stored.model;
  int64_t& block_size = settings.config.block_size;
  if (!settings.given("block_size")) block_size = std::min(block_size, stored.model.block_size);
  if (block_size <= stored.model.block_size) return;
  if (stored.model.family == Family::gpt2)
    throw CheckpointError(
        "{}: its model has {} positions, block_size is {}; learned positions "
        "cannot be extended, use --block_size {}",
        checkpoint, stored.model.block_size, block_size, stored.model.block_size);
  settings.config.model.block_size = block_size;  // rotary positions go on
}

StartPlan from_weights(const Settings& given, Settings settings, const std::string& checkpoint,
                       const std::string& default_out_dir, std::string said) {
  StartPlan plan;
  plan.kind = StartKind::weights;
  plan.checkpoint = checkpoint;
  plan.settings = std::move(settings);
  plan.said = std::move(said);
  adopt_model(plan.settings, checkpoint);
  finish(plan, given, out_dir_or(given, default_out_dir));
  return plan;
}

StartPlan new_run(const Settings& given) {
  const std::string& pretrained = given.config.pretrained_model;
  if (!pretrained.empty()) {
    const std::string checkpoint = resolve_checkpoint(pretrained);
    StartPlan plan =
        from_weights(given, given, checkpoint, kInstruct,
                     fmt::format("starting from the weights of {} at step 0", checkpoint));
    plan.settings.config.pretrained_model = pretrained;
    return plan;
  }
  StartPlan plan;
  plan.settings = given;
  plan.said = "starting a new run";
  finish(plan, given, out_dir_or(given, kNewRun));
  return plan;
}

// A checkpoint lies in its run's directory; one that was copied elsewhere does not.
std::string run_directory_of(const std::string& checkpoint) {
  const std::string parent = parent_path(checkpoint);
  const bool in_a_run = files::step_of(base_name(checkpoint)).has_value();
  return in_a_run ? (parent.empty() ? "." : parent) : kNewRun;
}

// An interrupted extension is gone on with, not begun anew.
bool is_this_extension(const Schedule& schedule, int64_t extend_steps) {
  return schedule.first_step > 0 && schedule.max_iters == extend_steps;
}

StartPlan extend(const Settings& given, const Settings& recorded, StartPlan plan) {
  const int64_t last = *given.config.extend_steps;
  const int64_t step = plan.state->step;
  if (last <= step)
    throw UsageError("extend_steps: {} is not beyond step {}, where {} stands; give a larger one",
                     last, step, plan.checkpoint);
  plan.kind = StartKind::extend;
  plan.settings = merge_resumed(given, recorded, true);
  constexpr const char* kSource = "command line (extend_steps)";
  plan.settings.set("max_iters", last, kSource);
  // A checkpoint's constant or plateau is over: the new schedule ends in a decay.
  const auto schedule = given.source.find("lr_schedule");
  if (schedule == given.source.end() || schedule->second != "command line")
    plan.settings.set("lr_schedule", "cosine", kSource);
  plan.said = fmt::format("extending {} from step {} to {} with a new schedule", plan.checkpoint,
                          step, last);
  return plan;
}

StartPlan go_on(const Settings& given, const std::string& checkpoint) {
  StartPlan plan;
  plan.kind = StartKind::resume;
  plan.checkpoint = checkpoint;
  if (!path_exists(join_path(checkpoint, files::kTrainState)))
    throw CheckpointError(
        "{}: is a model without a run's state; start from its weights with "
        "--pretrained_model {}",
        checkpoint, checkpoint);
  plan.state = read_train_state(checkpoint);
  const Settings recorded = recorded_settings(*plan.state, checkpoint);
  std::string difference;
  if (is_other_configuration(given, recorded, difference) && !given.config.extend_steps)
    return from_weights(given, given, checkpoint, kRestart,
                        fmt::format("the configuration is not the checkpoint's ({}): taking the "
                                    "weights of {} and starting a fresh schedule at step 0",
                                    difference, checkpoint));
  if (given.config.fresh_schedule)
    return from_weights(given, merge_fresh(given, recorded), checkpoint, kRestart,
                        fmt::format("taking the weights of {} and starting a fresh schedule at "
                                    "step 0",
                                    checkpoint));
  const Schedule schedule = schedule_from_json(plan.state->schedule, checkpoint);
  if (given.config.extend_steps && !is_this_extension(schedule, *given.config.extend_steps)) {
    plan = extend(given, recorded, std::move(plan));
  } else {
    plan.settings = merge_resumed(given, recorded, false);
    plan.said = fmt::format("resuming {} at step {} of {}", checkpoint, plan.state->step,
                            schedule.max_iters);
  }
  adopt_model(plan.settings, checkpoint);
  const std::string run_directory = run_directory_of(checkpoint);
  const std::string out_dir = out_dir_or(given, run_directory);
  plan.may_reuse_out_dir = out_dir == run_directory;
  finish(plan, given, out_dir);
  return plan;
}

StartPlan resume_newest(const Settings& given, const std::string& out_dir) {
  const std::string checkpoint = newest_valid_checkpoint(out_dir);
  if (checkpoint.empty())
    throw CheckpointError(
        "{}: holds checkpoints but none that is valid (see the warnings above); "
        "start a new run in another --out_dir",
        out_dir);
  return go_on(given, checkpoint);
}

}  // namespace

StartPlan plan_start(const Settings& given) {
  const std::string& resume = given.config.resume;
  if (resume.empty()) return new_run(given);
  if (resume == "auto") {
    const bool instruct = !given.config.pretrained_model.empty();
    const std::string out_dir = out_dir_or(given, instruct ? kInstruct : kNewRun);
    if (!files::list_checkpoints(out_dir).empty()) return resume_newest(given, out_dir);
    if (given.config.extend_steps || given.config.fresh_schedule)
      throw CheckpointError("{}: there is no checkpoint to go on from; name one with --resume PATH",
                            out_dir);
    Settings fresh = given;
    fresh.config.resume.clear();
    StartPlan plan = new_run(fresh);
    plan.said = fmt::format("no checkpoint in {}: {}", out_dir, plan.said);
    plan.may_reuse_out_dir = true;
    return plan;
  }
  // A run's directory means its newest valid checkpoint, as auto does.
  if (is_directory(resume) && read_link(resume).empty() && !files::list_checkpoints(resume).empty())
    return resume_newest(given, resume);
  return go_on(given, resolve_checkpoint(resume));
}

}  // namespace train_sft
