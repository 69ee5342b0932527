#include "train/resume_settings.h"

#include <algorithm>
#include <iterator>
#include <set>

#include "train_sft/base/error.h"
#include "train_sft/base/file.h"
#include "train_sft/base/log.h"
#include "train_sft/config/fp8_settings.h"

namespace train_sft {
namespace {

using Names = std::set<std::string>;

const Names kStartOptions = {"resume",         "extend_steps",
                             "fresh_schedule", "pretrained_model",
                             "out_dir",        "overwrite_data_check",
                             "on_event",  // a checkpoint's word never runs a command
                             "procs",          "json"};
// May change at any time: they do not touch the weights. Data and tokenizer are checked by their
// content; vocab_size sizes a tokenizer, which a checkpoint brings.
const Names kFreeOptions = {"data",
                            "val_data",
                            "val_split",
                            "val_split_by",
                            "eval_data",
                            "data_format",
                            "data_vars",
                            "cache_dir",
                            "verify_data",
                            "tokenizer",
                            "tokenizer_type",
                            "eval_interval",
                            "eval_batches",
                            "save_interval",
                            "save_in_background",
                            "log_interval",
                            "log_examples",
                            "profile",
                            "histogram_interval",
                            "keep",
                            "keep_optimizer",
                            "early_stop_patience",
                            "min_delta",
                            "log_file",
                            "use_tensorboard",
                            "tensorboard_dir",
                            "sample_interval",
                            "sample_prompts",
                            "max_bad_steps",
                            "on_divergence",
                            "threads",
                            "recompute",
                            "max_memory",
                            "device",
                            "shard",
                            "reduce_dtype",
                            "dist_timeout"};
const Names kScheduleOptions = {"max_iters",   "epochs",       "learning_rate", "min_lr",
                                "lr_schedule", "warmup_iters", "plateau_iters"};
const Names kOrderOptions = {"seed",     "packing",  "block_size",
                             "overlong", "train_on", "chat_template"};
const Names kModelOptions = {"family",    "n_layer",    "n_head",       "n_kv_head",
                             "n_embd",    "head_size",  "ffn_hidden",   "tie_embeddings",
                             "qkv_bias",  "qk_norm",    "norm_eps",     "rope_theta",
                             "lora_rank", "lora_alpha", "lora_targets", "freeze"};

constexpr const char* kCommandLine = "command line";
constexpr std::string_view kRecordedPrefix = "checkpoint (";

std::string source_of(const Settings& settings, const std::string& name) {
  const auto found = settings.source.find(name);
  return found == settings.source.end() ? "" : found->second;
}

// A recorded source is wrapped once, however often the run was resumed.
std::string wrapped(const std::string& source) {
  return source.starts_with(kRecordedPrefix) ? source : fmt::format("checkpoint ({})", source);
}

std::string unwrapped(const std::string& source) {
  if (!source.starts_with(kRecordedPrefix)) return source;
  return source.substr(kRecordedPrefix.size(), source.size() - kRecordedPrefix.size() - 1);
}

bool from_command_line(const std::string& source) {
  return unwrapped(source).starts_with(kCommandLine);
}

Json value_of(const Settings& settings, const std::string& name) {
  return find_option(name)->get(settings.config);
}

// A size given as 0 means "the usual", which the checkpoint's model records as a number.
bool same_setting(const Settings& given, const Settings& recorded, const std::string& name) {
  const Json now = value_of(given, name);
  const bool derived =
      (name == "n_kv_head" || name == "head_size" || name == "ffn_hidden") && now == Json(0);
  return derived || now == value_of(recorded, name);
}

// The name of a configuration file, or "" for any other source.
std::string configuration_of(const std::string& source) {
  const std::string plain = unwrapped(source);
  if (!plain.ends_with(".json") || plain == "train_sft.json") return "";
  return base_name(plain);
}

Names configurations_of(const Settings& settings) {
  Names names;
  for (const auto& [option, source] : settings.source)
    if (const std::string name = configuration_of(source); !name.empty()) names.insert(name);
  return names;
}

std::string said(const Settings& settings, const std::string& name) {
  const std::string source = source_of(settings, name);
  return fmt::format("{} ({})", value_of(settings, name).dump(),
                     source.empty() ? "built-in" : unwrapped(source));
}

// Refuses a change that would make it another run; says how to get what was meant.
void refuse_change(const Settings& given, const Settings& recorded, const std::string& name,
                   bool extending) {
  const std::string now = said(given, name), then = said(recorded, name);
  if (kScheduleOptions.contains(name) && !extending)
    throw UsageError(
        "{}: is {} now and was {} when the checkpoint was made; a resumed run keeps "
        "its schedule. Leave it out, or use --extend_steps N to go on beyond the end "
        "or --fresh_schedule to start again from the weights",
        name, now, then);
  if (name == "optimizer")
    throw UsageError(
        "optimizer: is {} now and was {} when the checkpoint was made, whose state it holds; leave "
        "it out, or use --fresh_schedule to start again from the weights",
        now, then);
  if (std::find(std::begin(kFp8Options), std::end(kFp8Options), name) != std::end(kFp8Options))
    throw UsageError(
        "{}: is {} now and was {} when the checkpoint was made, whose 8-bit scales go on; leave it "
        "out, or use --fresh_schedule to start again from the weights",
        name, now, then);
  if (kModelOptions.contains(name))
    throw CheckpointError(
        "{}: is {} now and was {} when the checkpoint was made; its model cannot "
        "change shape",
        name, now, then);
  if (kOrderOptions.contains(name) && !given.config.overwrite_data_check)
    throw UsageError(
        "{}: is {} now and was {} when the checkpoint was made; the rows would not be "
        "those the run was going through. Leave it out, or accept that with "
        "--overwrite_data_check",
        name, now, then);
}

}  // namespace

void clear_start_options(Settings& settings) {
  static const TrainConfig defaults;
  for (const auto& name : kStartOptions) {
    const Option* option = find_option(name);
    option->set(settings.config, *option, option->get(defaults));
    settings.source.erase(name);
  }
}

Settings recorded_settings(const TrainState& state, const std::string& checkpoint) {
  Settings settings;
  const Json sources = state.settings.value("_source", Json::object());
  for (const auto& [name, source] : sources.items()) {
    // A setting of a later version of the program is unknown here and cannot be followed.
    if (find_option(name) == nullptr || !state.settings.contains(name))
      throw CheckpointError("{}: was made with the setting '{}', which this version does not know",
                            checkpoint, name);
    if (!kStartOptions.contains(name))
      settings.set(name, state.settings[name], wrapped(source.get<std::string>()));
  }
  return settings;
}

bool is_other_configuration(const Settings& given, const Settings& recorded,
                            std::string& difference) {
  const Names now = configurations_of(given);
  if (now.empty()) return false;
  const bool same_name = now == configurations_of(recorded);
  for (const auto& [name, source] : given.source) {
    if (configuration_of(source).empty()) continue;
    if (kStartOptions.contains(name) || kFreeOptions.contains(name)) continue;
    if (same_setting(given, recorded, name)) continue;
    // The same configuration with a flag on top, resumed without the flag.
    if (same_name && from_command_line(source_of(recorded, name))) continue;
    difference = fmt::format("{} is {} and was {}", name, said(given, name), said(recorded, name));
    return true;
  }
  return false;
}

Settings merge_resumed(const Settings& given, const Settings& recorded, bool extending) {
  Settings merged = recorded;
  for (const auto& [name, source] : given.source) {
    if (kStartOptions.contains(name) || same_setting(given, recorded, name)) continue;
    const bool now = from_command_line(source);
    // What was said on a command line holds against a file, then as now.
    if (!now && from_command_line(source_of(recorded, name))) continue;
    if (kFreeOptions.contains(name)) {
      merged.set(name, value_of(given, name), source);
    } else if (now) {
      refuse_change(given, recorded, name, extending);
      log::warning("{} changes from {} to {} on resume", name, said(recorded, name),
                   said(given, name));
      merged.set(name, value_of(given, name), source);
    } else {
      log::warning("{} says {} {}; the resumed run keeps {}", source, name,
                   value_of(given, name).dump(), said(recorded, name));
    }
  }
  return merged;
}

Settings merge_fresh(const Settings& given, const Settings& recorded) {
  Settings merged = recorded;
  for (const auto& [name, source] : given.source) {
    const bool file_against_command_line =
        !from_command_line(source) && from_command_line(source_of(recorded, name));
    if (!kStartOptions.contains(name) && !file_against_command_line)
      merged.set(name, value_of(given, name), source);
  }
  return merged;
}

}  // namespace train_sft
