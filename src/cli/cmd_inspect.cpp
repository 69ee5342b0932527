#include <cmath>
#include <cstdio>

#include "cli/commands.h"
#include "cli/inspect_data.h"
#include "cli/utf8_stream.h"
#include "train_sft/base/file.h"
#include "train_sft/base/progress.h"
#include "train_sft/model/parameters.h"
#include "train_sft/train/checkpoint.h"

namespace train_sft::cli {
namespace {

uint64_t bytes_of_directory(const std::string& directory) {
  uint64_t bytes = 0;
  for (const std::string& name : list_directory(directory)) {
    const std::string path = join_path(directory, name);
    if (!is_directory(path)) bytes += file_size(path);
  }
  return bytes;
}

Json inspect_checkpoint(const std::string& path, bool quiet) {
  const std::string directory = resolve_checkpoint(path);
  const ModelConfig model = read_model_config(directory);
  const std::string fault = verify_checkpoint(directory);
  Json json{{"kind", "checkpoint"},
            {"path", directory},
            {"valid", fault.empty()},
            {"params", parameter_layout(model).count()},
            {"bytes", bytes_of_directory(directory)},
            {"model", shape_json(model)}};
  if (!fault.empty()) json["fault"] = fault;
  if (path_exists(join_path(directory, "train_state.json"))) {
    const TrainState state = read_train_state(directory);
    json["step"] = state.step;
    json["tokens"] = state.tokens;
    json["examples"] = state.examples;
    json["precision"] = state.precision;
    json["has_optimizer"] = path_exists(join_path(directory, "optimizer.safetensors"));
    if (state.best_step >= 0) {
      json["best_val_loss"] = state.best_val_loss;
      json["best_step"] = state.best_step;
    }
  }
  if (quiet) return json;
  fmt::print("checkpoint {} ({})\n", directory, fault.empty() ? "valid" : "NOT VALID: " + fault);
  fmt::print("  {} parameters, {} on disk\n", human_count(json["params"].get<double>()),
             human_bytes(json["bytes"].get<double>()));
  for (const auto& [name, value] : json["model"].items())
    fmt::print("  {} {}\n", name, value.dump());
  for (const char* name :
       {"step", "tokens", "examples", "precision", "has_optimizer", "best_val_loss", "best_step"}) {
    if (json.contains(name)) fmt::print("  {} {}\n", name, json[name].dump());
  }
  return json;
}

Json inspect_tokenizer(const std::string& path, int64_t show, bool quiet) {
  const auto tokenizer = load_tokenizer(path);
  Json json{{"kind", "tokenizer"},           {"path", path},
            {"type", tokenizer->kind()},     {"vocab_size", tokenizer->vocab_size()},
            {"bos_id", tokenizer->bos_id()}, {"eos_id", tokenizer->eos_id()},
            {"pad_id", tokenizer->pad_id()}, {"fingerprint", tokenizer->fingerprint()}};
  const int32_t shown = static_cast<int32_t>(std::min<int64_t>(show, tokenizer->vocab_size()));
  for (int32_t id = 0; id < shown; ++id) {
    json["tokens"].push_back(well_formed(tokenizer->token_bytes(id)));
  }
  if (quiet) return json;
  fmt::print("tokenizer {}: {}, {} tokens; bos {}, eos {}, pad {}\n", path, tokenizer->kind(),
             tokenizer->vocab_size(), tokenizer->bos_id(), tokenizer->eos_id(),
             tokenizer->pad_id());
  for (int32_t id = 0; id < shown; ++id) {
    fmt::print("  {:>6} {}\n", id, json["tokens"][static_cast<size_t>(id)].dump());
  }
  return json;
}

Json inspect_cache(const std::string& path, bool quiet) {
  Json json{{"kind", "token cache"}};
  json.update(inspect_token_cache(path));
  if (quiet) return json;
  fmt::print("token cache {} ({})\n", path,
             json["valid"] ? "valid" : "NOT VALID: " + json["fault"].get<std::string>());
  if (!json.contains("bytes")) return json;
  fmt::print("  {} of {}\n", human_bytes(json["bytes"].get<double>()), json["files"].dump());
  for (const char* side : {"train", "validation"}) {
    const DataReport report = data_report_from_json(json[side], path);
    if (report.examples > 0) fmt::print("  {}: {}", side, describe(report));
  }
  return json;
}

bool ends_with(const std::string& text, const std::string& end) {
  return text.size() >= end.size() && text.compare(text.size() - end.size(), end.size(), end) == 0;
}

Outcome run_inspect(const Invocation& invocation) {
  std::vector<std::string> paths = invocation.positionals;
  const auto& data = invocation.settings.config.data;
  paths.insert(paths.end(), data.begin(), data.end());
  if (paths.empty()) {
    throw UsageError(
        "inspect takes a PATH: a checkpoint, data files, a tokenizer or a token cache");
  }
  const std::string& path = paths[0];
  const bool quiet = invocation.settings.config.json;
  const bool link = !read_link(path).empty();
  const bool there = link || path_exists(path);
  if (paths.size() > 1 || !data.empty() || (!there && path.find('*') != std::string::npos)) {
    return {ExitCode::ok, inspect_data(invocation, paths)};  // files may carry weights
  }
  if (!there) throw DataError("{}: there is no such file or directory", path);
  const bool directory = is_directory(path);
  const bool only_tokenizer =
      directory && holds_tokenizer(path) && !path_exists(join_path(path, "config.json"));
  if (only_tokenizer ||
      (!directory && (ends_with(path, ".model") || base_name(path) == "tokenizer.json"))) {
    return {ExitCode::ok, inspect_tokenizer(path, invocation.integer("show"), quiet)};
  }
  if (directory && is_token_cache(path)) {
    Json json = inspect_cache(path, quiet);
    const bool valid = json["valid"].get<bool>();
    return {valid ? ExitCode::ok : ExitCode::data, std::move(json)};
  }
  if (directory || link) {
    Json json = inspect_checkpoint(path, quiet);
    const bool valid = json["valid"].get<bool>();
    return {valid ? ExitCode::ok : ExitCode::checkpoint, std::move(json)};
  }
  return {ExitCode::ok, inspect_data(invocation, paths)};
}

}  // namespace

Command inspect_command() {
  Command command;
  command.name = "inspect";
  command.arguments = "PATH...";
  command.summary = "Says what a checkpoint, data files, a tokenizer or a token cache hold.";
  command.examples = {
      "train_sft inspect checkpoints/best_model",
      "train_sft inspect alpaca.json --tokenizer checkpoints/best_model --show 3",
      "train_sft inspect a.jsonl \"b.jsonl*0.5\" --val_data held_out.jsonl --train_on last",
      "train_sft inspect tokenizer.model --show 300",
      "train_sft inspect .cache/train_sft/4f0c…",
  };
  command.own_options = {
      own_option("show", "int", 0, "Print this many examples or tokens", 0, 1e9)};
  command.shared = {"data",          "val_data",  "val_split",   "val_split_by",
                    "data_format",   "field_map", "data_vars",   "train_on",
                    "chat_template", "packing",   "overlong",    "tokenizer",
                    "block_size",    "cache_dir", "verify_data", "threads"};
  command.run = run_inspect;
  return command;
}

}  // namespace train_sft::cli
